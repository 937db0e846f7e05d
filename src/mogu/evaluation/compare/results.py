"""What a comparison leaves: ``results.json``, ``results.csv`` and ``report.html``.

Knows numbers and files; measures nothing. The schema is in docs/reference/file-formats.md.
"""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mogu.evaluation.compare.config import Comparison
from mogu.evaluation.compare.metrics import Grid, Number
from mogu.evaluation.prompts import Asked
from mogu.files.atomic import atomic_file
from mogu.files.json_files import write_json

FORMAT = 1
RESULTS_FILE, TABLE_FILE, REPORT_PAGE = "results.json", "results.csv", "report.html"
SAMPLES_A_CATEGORY = 2


@dataclass(frozen=True)
class Results:
    """All that a comparison found.

    Args:
        made: how: command, versions, seeds, date, machine.
        data: how many prompts of each data set and category there were.
        numbers: every number.
        frontier: the defenses that none is better than on both axes.
        roc: corners of ROC curves, by what is told apart.
        samples: the first prompts of each category with every defense's reply under the first seed.
    """

    made: dict[str, Any]
    data: list[dict[str, Any]]
    numbers: list[Number]
    frontier: list[str]
    roc: dict[str, list[tuple[float, float]]]
    samples: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Ready for ``results.json``."""
        return {"format": FORMAT, **vars(self), "numbers": [number.as_row() for number in self.numbers]}


def made_how(comparison: Comparison, device: str, model_dials: Sequence[float]) -> dict[str, Any]:
    """How and where a comparison was made; ``model_dials`` are MoGU's own under each seed."""
    return {
        "command": comparison.command,
        "model": comparison.model,
        "seeds": list(range(comparison.seeds)),
        "defenses": list(comparison.named()),
        "shifts": list(comparison.shifts),
        "model_dials": list(model_dials),
        "limit": comparison.limit,
        "max_new_tokens": comparison.max_new_tokens,
        "batch_size": comparison.batch_size,
        "settings": list(comparison.settings),
        "judge": comparison.judge,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": {name: version(name) for name in ("mogu", "torch", "transformers", "peft")} | {"python": platform.python_version()},
        "device": torch.cuda.get_device_name()
        if device == "cuda"
        else f"CPU with {os.cpu_count()} cores, threads: {torch.get_num_threads()}",
    }


def counted(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """Prompts of each data set and category."""
    counts: dict[tuple[str, str], int] = {}
    for one in asked:
        counts[one.dataset, one.category] = counts.get((one.dataset, one.category), 0) + 1
    return [{"dataset": dataset, "category": category, "prompts": number} for (dataset, category), number in counts.items()]


def samples(asked: Sequence[Asked], grid: Grid) -> list[dict[str, Any]]:
    """The first prompts of each category of each data set, whatever became of them, and what each defense replied."""
    taken: dict[tuple[str, str], int] = {}
    chosen = []
    for place, one in enumerate(asked):
        key = one.dataset, one.category
        taken[key] = taken.get(key, 0) + 1
        if taken[key] <= SAMPLES_A_CATEGORY:
            replies = {variant: seeds[0][place] for variant, seeds in grid.items() if variant.shift is None}
            chosen.append(
                {
                    "id": one.id,
                    "dataset": one.dataset,
                    "category": one.category,
                    "wrapper": one.wrapper,
                    "wanted": one.wanted,
                    "conversation": [dict(turn) for turn in one.conversation],
                    "replies": [
                        {"defense": variant.defense, "reply": row.reply, "outcome": row.outcome, "intervened": row.intervened}
                        for variant, row in replies.items()
                    ],
                }
            )
    return chosen


def write_results(results: Results, out: Path) -> None:
    """Write all three files, each whole or not at all.

    Raises:
        MoguError: the folder cannot be written.
    """
    from mogu.evaluation.compare.report import page

    write_json(out / RESULTS_FILE, results.as_json())
    rows = [number.as_row() for number in results.numbers]
    with atomic_file(out / TABLE_FILE) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    with atomic_file(out / REPORT_PAGE) as scratch:
        scratch.write_text(page(results.as_json()), encoding="utf-8")
