"""Rank instructions by tendency: measure them, resume after a stop, and write the ranking as JSON and as a plot.

Knows the order of the steps and the output folder; the measurement itself is :mod:`mogu.analysis.tendency`.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from mogu.analysis.answer_openings import AnswerOpenings
from mogu.analysis.labeled_instructions import LabeledInstruction
from mogu.analysis.measurement_cache import MEASUREMENTS_FILE, MeasurementCache, model_fingerprint
from mogu.analysis.tendency import OpeningEncoder, Tendency, check_opening_lengths, measure_openings
from mogu.data import offered, opened
from mogu.data.text_tasks import only_manipulates_text
from mogu.files.atomic import atomic_file, check_replaceable

JSON_FILE = "tendency.json"
PLOT_FILE = "tendency.png"
FORMAT = 1
"""The format of ``tendency.json``."""


@dataclass(frozen=True)
class RankedInstruction:
    """One instruction with its tendency."""

    instruction: LabeledInstruction
    tendency: Tendency

    def as_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        tendency = self.tendency
        numbers = {"tendency": tendency.value, "affirm": tendency.affirm_mean, "refuse": tendency.refuse_mean}
        text = self.instruction.instruction
        named = {"id": self.instruction.id, "label": self.instruction.label}
        return {**named, **numbers, "manipulates_text": only_manipulates_text(text), "instruction": text}


@dataclass(frozen=True)
class TendencyRanking:
    """All instructions, the highest tendency first.

    Args:
        settings: what they were measured with, for the reader of the file.
        openings: both banks.
        rows: the instructions.
    """

    settings: Mapping[str, Any]
    openings: AnswerOpenings
    rows: tuple[RankedInstruction, ...]

    def by_label(self) -> dict[str, list[float]]:
        """Return the tendencies of each label, in the labels' alphabetical order."""
        values: dict[str, list[float]] = {label: [] for label in sorted({row.instruction.label for row in self.rows})}
        for row in self.rows:
            values[row.instruction.label].append(row.tendency.value)
        return values

    def as_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "format": FORMAT,
            "unit": "nats per token",
            "made": dict(self.settings),
            "labels": {label: label_summary(values) for label, values in self.by_label().items()},
            "openings": {
                kind: {opening: statistics.fmean(values) for opening, values in zip(bank, zip(*rows, strict=True), strict=True)}
                for kind, bank, rows in (
                    ("affirm", self.openings.affirm, [row.tendency.affirm for row in self.rows]),
                    ("refuse", self.openings.refuse, [row.tendency.refuse for row in self.rows]),
                )
            },
            "instructions": [row.as_json() for row in self.rows],
        }


def label_summary(values: Sequence[float]) -> dict[str, float]:
    """Summarize the tendencies of one label: their number, mean and median, and the share that leans to affirm."""
    return {
        "n": len(values),
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "affirming": sum(value > 0 for value in values) / len(values),
    }


def check_folder(out: Path) -> None:
    """Refuse an output folder that mogu did not write.

    Raises:
        MoguError: the folder has content, and none of it is ours.
    """
    check_replaceable(out, marker=MEASUREMENTS_FILE)


def rank_instructions(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    instructions: Sequence[LabeledInstruction],
    openings: AnswerOpenings,
    out: Path,
    *,
    system_prompt: str | None = None,
    settings: Mapping[str, Any] | None = None,
    batch_size: int = 8,
    advance: Callable[[int], None] = lambda count: None,
) -> TendencyRanking:
    """Measure instructions in the model's current routing mode and rank them, storing each measurement in ``out`` as it comes.

    Args:
        model: see :func:`mogu.analysis.tendency.measure_openings`.
        tokenizer: its tokenizer.
        instructions: the instructions; those that an earlier run with the same model and settings measured are not measured again.
        openings: both banks.
        out: the folder.
        system_prompt: for conversations that have none.
        settings: what to record in ``tendency.json`` for its reader.
        batch_size: number of prompts in one forward pass.
        advance: called with the number of instructions that were just finished.

    Raises:
        MoguError: an instruction, the model or the folder cannot be used; all instructions are checked before anything is written.
    """
    check_folder(out)
    encoder = OpeningEncoder(tokenizer, openings)
    prompts = [encoder.encode(offered(opened(listed.conversation, system_prompt), listed.tools)) for listed in instructions]
    check_opening_lengths(model, prompts, [listed.id for listed in instructions])
    cache = MeasurementCache(out, model_fingerprint(model))
    occurrences = Counter(prompt for prompt in prompts if cache.find(prompt) is None)
    missing = list(occurrences)
    advance(len(prompts) - occurrences.total())
    for batch in measure_openings(model, missing, batch_size=batch_size):
        cache.add([(missing[index], values) for index, values in batch.items()])
        advance(sum(occurrences[missing[index]] for index in batch))
    rows = []
    for listed, prompt in zip(instructions, prompts, strict=True):
        values = cache.find(prompt)
        assert values is not None
        rows.append(RankedInstruction(listed, Tendency(values[: len(openings.affirm)], values[len(openings.affirm) :])))
    return TendencyRanking(settings or {}, openings, tuple(sorted(rows, key=lambda row: -row.tendency.value)))


def write_ranking(ranking: TendencyRanking, out: Path) -> bool:
    """Write ``tendency.json`` and, if matplotlib is installed, ``tendency.png``; return whether it is.

    Raises:
        MoguError: the folder cannot be written; existing files are then unchanged.
    """
    plotted = find_spec("matplotlib") is not None
    if plotted:
        from mogu.analysis.tendency_plot import draw_histograms

        with atomic_file(out / PLOT_FILE) as scratch:
            draw_histograms(ranking.by_label(), scratch)
    with atomic_file(out / JSON_FILE) as scratch:
        scratch.write_text(json.dumps(ranking.as_json(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return plotted
