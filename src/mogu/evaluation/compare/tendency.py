"""The base model's response tendency on the prompts of a comparison, and its correlation with what became of them.

Knows prompts, cells and openings; tendency is measured by :mod:`mogu.analysis`, and correlated by :mod:`mogu.evaluation.correlation`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from logging import getLogger
from pathlib import Path

from mogu.analysis.answer_openings import Openings, read_openings
from mogu.analysis.tendency import Leaning, Questions, check_lengths, leanings
from mogu.defenses import Subject
from mogu.evaluation.compare.config import OWN_OPENINGS, Comparison
from mogu.evaluation.compare.lineup import Variant
from mogu.evaluation.compare.metrics import BASELINE, Metric, Replies
from mogu.evaluation.compare.model_pool import ModelPool
from mogu.evaluation.correlation import Compared, Measure
from mogu.evaluation.prompts import EvalPrompt
from mogu.files.json_files import fingerprint as fingerprint_of
from mogu.files.json_files import read_json, write_json

logger = getLogger(__name__)

TENDENCY_FILE = "tendency.json"


def openings_of(comparison: Comparison) -> Openings | None:
    """Read the openings that a comparison measures tendency with; ``None`` where it does not ask for that.

    Raises:
        DataError: their file cannot be used.
    """
    source = comparison.tendency
    if source is None:
        return None
    return Openings() if source == OWN_OPENINGS else read_openings(Path(source).expanduser())


def tendency_metrics(openings: Openings, pool: ModelPool, prompts: Sequence[EvalPrompt], replies: Replies) -> Iterator[Metric]:
    """Correlate the base model's tendency with attack success, without defense and with the first model, and with that model's score.

    Spearman's ρ. Tendency is measured once and kept; of what a row did on a prompt, the mean over seeds counts.
    """
    tendencies = _tendencies(openings, pool, prompts)
    outcomes: dict[tuple[Measure, str], dict[str, float]] = {}
    for name in (BASELINE, *pool.lineup.model_names()[:1]):
        for index, prompt in enumerate(prompts):
            rows = [rows[index] for rows in replies.get(Variant(name), [])]
            values: dict[Measure, list[float]] = {
                "attack_success": [float(row.outcome == "complied") for row in rows],
                "score": [float(row.details["score"]) for row in rows if row.details.get("score") is not None],
            }
            for measure, numbers in values.items():
                if numbers:
                    outcomes.setdefault((measure, name), {})[prompt.id] = math.fsum(numbers) / len(numbers)
    labeled = [(prompt.id, prompt.category, tendency) for prompt, tendency in zip(prompts, tendencies, strict=True)]
    for correlation in Compared(outcomes).correlations(labeled):
        if not math.isnan(correlation.estimate.value):
            yield Metric("tendency", correlation.measure, correlation.estimate, correlation.defense, category=correlation.category)


def _tendencies(openings: Openings, pool: ModelPool, prompts: Sequence[EvalPrompt]) -> list[float]:
    subject = Subject(pool.base, pool.tokenizer, system_prompt=pool.first_model.system_prompt())
    conversations = [subject.conversation(prompt.conversation) for prompt in prompts]
    fingerprint = fingerprint_of(pool.base_fingerprint(), conversations, asdict(openings))
    file = pool.comparison.out / TENDENCY_FILE
    kept = read_json(file)
    if kept is None or kept["fingerprint"] != fingerprint:
        logger.info("Tendency of the base model on %d prompts", len(prompts))
        make = Questions(pool.tokenizer, openings)
        questions = [make.of(conversation) for conversation in conversations]
        check_lengths(pool.base, questions, [prompt.id for prompt in prompts])
        measured = [math.nan] * len(prompts)
        for batch in leanings(pool.base, questions):
            for index, logs in batch.items():
                measured[index] = Leaning(logs[: len(openings.affirm)], logs[len(openings.affirm) :]).tendency
        kept = {"fingerprint": fingerprint, "tendencies": measured}
        write_json(file, kept)
    tendencies: list[float] = kept["tendencies"]
    return tendencies
