"""Instructions ranked by tendency: measured, gone on with after a stop, and written as JSON and as a histogram.

Knows the order of things and the output folder; the measurement itself is :mod:`mogu.analysis.tendency`.
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

from mogu.analysis.answer_openings import Openings
from mogu.analysis.instructions import Listed
from mogu.analysis.measurement_cache import MEASURED_FILE, Measured, fingerprint_of
from mogu.analysis.tendency import Leaning, Questions, check_lengths, leanings
from mogu.data import offered, opened
from mogu.files.atomic import atomic_file, check_replaceable

JSON_FILE = "tendency.json"
PLOT_FILE = "tendency.png"
FORMAT = 1
"""Of ``tendency.json``."""


@dataclass(frozen=True)
class Ranked:
    """One instruction and how the model leans on it."""

    listed: Listed
    leaning: Leaning

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        one, found = self.listed, self.leaning
        numbers = {"tendency": found.tendency, "affirm": found.affirm_mean, "refuse": found.refuse_mean}
        return {"id": one.id, "label": one.label, **numbers, "instruction": one.instruction}


@dataclass(frozen=True)
class Ranking:
    """All instructions, those that lean to affirm most first.

    Args:
        made: with what they were measured, for the reader of the file.
        openings: both banks.
        rows: the instructions.
    """

    made: Mapping[str, Any]
    openings: Openings
    rows: tuple[Ranked, ...]

    def by_label(self) -> dict[str, list[float]]:
        """Tendencies of each label, in the labels' alphabetical order."""
        found: dict[str, list[float]] = {label: [] for label in sorted({row.listed.label for row in self.rows})}
        for row in self.rows:
            found[row.listed.label].append(row.leaning.tendency)
        return found

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "format": FORMAT,
            "unit": "nats per token",
            "made": dict(self.made),
            "labels": {label: summary(values) for label, values in self.by_label().items()},
            "openings": {
                kind: {opening: statistics.fmean(values) for opening, values in zip(bank, zip(*found, strict=True), strict=True)}
                for kind, bank, found in (
                    ("affirm", self.openings.affirm, [row.leaning.affirm for row in self.rows]),
                    ("refuse", self.openings.refuse, [row.leaning.refuse for row in self.rows]),
                )
            },
            "instructions": [row.as_json() for row in self.rows],
        }


def summary(values: Sequence[float]) -> dict[str, float]:
    """How the instructions of one label lean: how many there are, mean, median, and the share that leans to affirm."""
    return {
        "n": len(values),
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "affirming": sum(value > 0 for value in values) / len(values),
    }


def check_folder(out: Path) -> None:
    """Refuse an output folder that is somebody else's.

    Raises:
        MoguError: it holds something, and nothing of ours.
    """
    check_replaceable(out, marker=MEASURED_FILE)


def rank(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    listed: Sequence[Listed],
    openings: Openings,
    out: Path,
    *,
    system_prompt: str | None = None,
    made: Mapping[str, Any] | None = None,
    batch_size: int = 8,
    advance: Callable[[int], None] = lambda _: None,
) -> Ranking:
    """Measure instructions in the model's present routing mode, keeping what is measured in ``out`` as it comes.

    Args:
        model: see :func:`mogu.analysis.tendency.leanings`.
        tokenizer: its tokenizer.
        listed: the instructions; what an earlier run with the same model and settings measured is not measured again.
        openings: both banks.
        out: the folder.
        system_prompt: for conversations that have none.
        made: for the reader of the file.
        batch_size: prompts a pass.
        advance: is told how many instructions are done at once.

    Raises:
        MoguError: an instruction, the model or the folder cannot be used; nothing is written before all instructions are checked.
    """
    check_folder(out)
    maker = Questions(tokenizer, openings)
    questions = [maker.of(offered(opened(one.conversation, system_prompt), one.tools)) for one in listed]
    check_lengths(model, questions, [one.id for one in listed])
    measured = Measured(out, fingerprint_of(model))
    times = Counter(question for question in questions if measured.find(question) is None)
    missing = list(times)
    advance(len(questions) - times.total())
    for batch in leanings(model, missing, batch_size=batch_size):
        measured.add([(missing[place], values) for place, values in batch.items()])
        advance(sum(times[missing[place]] for place in batch))
    rows = []
    for one, question in zip(listed, questions, strict=True):
        values = measured.find(question)
        assert values is not None
        rows.append(Ranked(one, Leaning(values[: len(openings.affirm)], values[len(openings.affirm) :])))
    return Ranking(made or {}, openings, tuple(sorted(rows, key=lambda row: -row.leaning.tendency)))


def write(ranking: Ranking, out: Path) -> bool:
    """Write ``tendency.json`` and, where matplotlib is installed, ``tendency.png``; returns whether it is.

    Raises:
        MoguError: the folder cannot be written; the files are then as they were.
    """
    plotted = find_spec("matplotlib") is not None
    if plotted:
        from mogu.analysis.histogram import draw

        with atomic_file(out / PLOT_FILE) as scratch:
            draw(ranking.by_label(), scratch)
    with atomic_file(out / JSON_FILE) as scratch:
        scratch.write_text(json.dumps(ranking.as_json(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return plotted
