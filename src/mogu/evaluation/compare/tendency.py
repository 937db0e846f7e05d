"""The base model's response tendency on the prompts of a comparison, and its correlation with what became of them.

Knows prompts, cells and openings; tendency is measured by :mod:`mogu.analysis`, and correlated by :mod:`mogu.evaluation.correlation`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from logging import getLogger
from pathlib import Path

from mogu.analysis.answer_openings import AnswerOpenings, read_openings
from mogu.analysis.tendency import OpeningEncoder, Tendency, check_opening_lengths, measure_openings
from mogu.defenses import TargetModel
from mogu.evaluation.compare.config import OWN_OPENINGS, Comparison
from mogu.evaluation.compare.lineup import Variant
from mogu.evaluation.compare.metrics import BASELINE, Metric, Replies
from mogu.evaluation.compare.model_pool import ModelPool
from mogu.evaluation.correlation import Compared, Measure
from mogu.evaluation.prompts import EvalPrompt
from mogu.files.json_files import fingerprint as fingerprint_of
from mogu.files.json_files import read_kept, write_sealed

logger = getLogger(__name__)

TENDENCY_FILE = "tendency.json"


def openings_of(comparison: Comparison) -> AnswerOpenings | None:
    """Read the openings that a comparison measures tendency with; ``None`` where it does not ask for that.

    Raises:
        DataError: their file cannot be used.
    """
    source = comparison.tendency
    if source is None:
        return None
    return AnswerOpenings() if source == OWN_OPENINGS else read_openings(Path(source).expanduser())


def tendency_metrics(openings: AnswerOpenings, pool: ModelPool, prompts: Sequence[EvalPrompt], replies: Replies) -> Iterator[Metric]:
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


def _tendencies(openings: AnswerOpenings, pool: ModelPool, prompts: Sequence[EvalPrompt]) -> list[float]:
    target = TargetModel(pool.base, pool.tokenizer())
    conversations = [target.with_system_prompt(prompt.conversation) for prompt in prompts]
    fingerprint = fingerprint_of(pool.base_fingerprint(), conversations, asdict(openings))
    file = pool.comparison.out / TENDENCY_FILE
    kept = read_kept(file)
    if kept is None or kept["fingerprint"] != fingerprint:
        logger.info("Tendency of the base model on %d prompts", len(prompts))
        encoder = OpeningEncoder(pool.tokenizer(), openings)
        encoded = [encoder.encode(conversation) for conversation in conversations]
        check_opening_lengths(pool.base, encoded, [prompt.id for prompt in prompts])
        measured = [math.nan] * len(prompts)
        for batch in measure_openings(pool.base, encoded):
            for index, logs in batch.items():
                measured[index] = Tendency(logs[: len(openings.affirm)], logs[len(openings.affirm) :]).value
        kept = {"fingerprint": fingerprint, "tendencies": measured}
        write_sealed(file, kept)
    tendencies: list[float] = kept["tendencies"]
    return tendencies
