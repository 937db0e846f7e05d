"""The base model's response tendency on the prompts of a comparison, and how it goes with what the defenses then did.

Knows prompts, cells and openings; tendency is measured by :mod:`mogu.analysis`, and correlated by :mod:`mogu.evaluation.correlation`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from mogu.analysis.answer_openings import AnswerOpenings, read_openings
from mogu.analysis.tendency import OpeningEncoder, Tendency, check_opening_lengths, measure_openings
from mogu.defenses import TargetModel
from mogu.evaluation.compare.config import OWN_OPENINGS, Comparison, Variant
from mogu.evaluation.compare.metrics import Grid, Number
from mogu.evaluation.compare.model_pool import Models, Tell
from mogu.evaluation.correlation import DEFENSES, Compared, Measure
from mogu.evaluation.prompts import Asked
from mogu.files.json_files import fingerprint, read_json, write_json

TENDENCY_FILE = "tendency.json"


def openings_of(comparison: Comparison) -> AnswerOpenings | None:
    """The openings that a comparison measures tendency with; ``None`` where it does not ask for it.

    Raises:
        DataError: their file cannot be used.
    """
    wanted = comparison.tendency
    if wanted is None:
        return None
    return AnswerOpenings() if wanted == OWN_OPENINGS else read_openings(Path(wanted).expanduser())


def tendency_numbers(
    comparison: Comparison, banks: AnswerOpenings, models: Models, asked: Sequence[Asked], grid: Grid, *, tell: Tell
) -> Iterator[Number]:
    """Spearman's ρ of the base model's tendency with attack success and with MoGU's score.

    Tendency is measured once and kept; of what a defense did on a prompt the mean over seeds counts.
    """
    found = _tendencies(comparison, banks, models, asked, tell)
    outcomes: dict[tuple[Measure, str], dict[str, float]] = {}
    for defense in DEFENSES:
        for place, one in enumerate(asked):
            rows = [rows[place] for rows in grid.get(Variant(defense), [])]
            told: dict[Measure, list[float]] = {"attack_success": [float(row.outcome == "complied") for row in rows]}
            told["score"] = [float(row.details["score"]) for row in rows if row.details.get("score") is not None]
            for measure, values in told.items():
                if values:
                    outcomes.setdefault((measure, defense), {})[one.id] = math.fsum(values) / len(values)
    listed = [(one.id, one.category, tendency) for one, tendency in zip(asked, found, strict=True)]
    for correlation in Compared(outcomes).correlations(listed):
        if not math.isnan(correlation.estimate.value):
            yield Number("tendency", correlation.measure, correlation.estimate, correlation.defense, category=correlation.category)


def _tendencies(comparison: Comparison, banks: AnswerOpenings, models: Models, asked: Sequence[Asked], tell: Tell) -> list[float]:
    subject = TargetModel(models.base, models.tokenizer, system_prompt=models.system_prompt())
    conversations = [subject.with_system_prompt(one.conversation) for one in asked]
    made_with = fingerprint(models.fingerprint("none", 0), conversations, asdict(banks))
    file = comparison.out / TENDENCY_FILE
    kept = read_json(file)
    if kept is None or kept["fingerprint"] != made_with:
        tell(f"Tendency of the base model on {len(asked)} prompts")
        encoder = OpeningEncoder(models.tokenizer, banks)
        prompts = [encoder.encode(conversation) for conversation in conversations]
        check_opening_lengths(models.base, prompts, [one.id for one in asked])
        found = [math.nan] * len(asked)
        for batch in measure_openings(models.base, prompts):
            for place, logs in batch.items():
                found[place] = Tendency(logs[: len(banks.affirm)], logs[len(banks.affirm) :]).value
        kept = {"fingerprint": made_with, "tendencies": found}
        write_json(file, kept)
    tendencies: list[float] = kept["tendencies"]
    return tendencies
