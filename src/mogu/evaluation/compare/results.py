"""What a comparison leaves: ``results.json``, ``results.csv`` and ``report.html``.

Knows metrics and files; measures nothing. The schema is in docs/reference/file-formats.md.
"""

from __future__ import annotations

import csv
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mogu.evaluation.compare.lineup import Lineup
from mogu.evaluation.compare.metrics import Metric, Replies
from mogu.evaluation.prompts import EvalPrompt
from mogu.files.atomic import atomic_file
from mogu.files.json_files import write_json

FORMAT = 2
"""Of ``results.json``: 1 had a section ``v2`` in place of ``model``, and no labels."""

RESULTS_FILE, TABLE_FILE, REPORT_PAGE = "results.json", "results.csv", "report.html"
SAMPLES_PER_CATEGORY = 2


@dataclass(frozen=True)
class Results:
    """The results of a comparison.

    Args:
        made: how they were made: command, models, versions, seeds, date, machine.
        data: how many prompts of each data set and category there were.
        numbers: every metric.
        frontier: the rows that none is better than on both axes.
        roc: corners of ROC curves, by what is told apart.
        reliability: by row with scores: mean score, share of malicious prompts and number of prompts, bin by bin.
        samples: the first prompts of each category with every row's reply under the first seed.
    """

    made: dict[str, Any]
    data: list[dict[str, Any]]
    numbers: list[Metric]
    frontier: list[str]
    roc: dict[str, list[tuple[float, float]]]
    reliability: dict[str, list[tuple[float, float, int]]]
    samples: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Ready for ``results.json``."""
        return {"format": FORMAT, **vars(self), "numbers": [metric.as_row() for metric in self.numbers]}


def provenance(lineup: Lineup, device: str, model_dials: Sequence[float]) -> dict[str, Any]:
    """Record how and where a comparison is made; ``model_dials`` are the first model's own under each seed."""
    comparison = lineup.comparison
    return {
        "command": comparison.command,
        "model": ", ".join(comparison.models),
        "models": lineup.model_names(),
        "seeds": list(range(comparison.seeds)),
        "defenses": lineup.names(),
        "labels": {name: system.label for name, system in lineup.systems.items()},
        "shifts": list(comparison.shifts),
        "model_dials": list(model_dials),
        "limit": comparison.limit,
        "max_new_tokens": comparison.max_new_tokens,
        "batch_size": comparison.batch_size,
        "settings": list(comparison.settings),
        "judge": comparison.judge,
        "scorer": comparison.scorer,
        "guard": comparison.guard,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": {name: version(name) for name in ("mogu", "torch", "transformers", "peft")} | {"python": platform.python_version()},
        "device": torch.cuda.get_device_name()
        if device == "cuda"
        else f"CPU with {os.cpu_count()} cores, threads: {torch.get_num_threads()}",
    }


def count_prompts(prompts: Sequence[EvalPrompt]) -> list[dict[str, Any]]:
    """Count the prompts of each data set and category."""
    counts = Counter((prompt.dataset, prompt.category) for prompt in prompts)
    return [{"dataset": dataset, "category": category, "prompts": number} for (dataset, category), number in counts.items()]


def samples(prompts: Sequence[EvalPrompt], replies: Replies) -> list[dict[str, Any]]:
    """Take the first prompts of each category of each data set, whatever became of them, with every row's reply."""
    taken: Counter[tuple[str, str]] = Counter()
    chosen = []
    for index, prompt in enumerate(prompts):
        key = prompt.dataset, prompt.category
        taken[key] += 1
        if taken[key] > SAMPLES_PER_CATEGORY:
            continue
        rows = {variant.system: seeds[0][index] for variant, seeds in replies.items() if variant.shift is None}
        chosen.append(
            {
                "id": prompt.id,
                "dataset": prompt.dataset,
                "category": prompt.category,
                "wrapper": prompt.wrapper,
                "wanted": prompt.expected,
                "conversation": [dict(turn) for turn in prompt.conversation],
                "replies": [
                    {"defense": name, "reply": row.reply, "outcome": row.outcome, "intervened": row.intervened}
                    for name, row in rows.items()
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
    rows = [metric.as_row() for metric in results.numbers]
    with atomic_file(out / TABLE_FILE) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    with atomic_file(out / REPORT_PAGE) as scratch:
        scratch.write_text(page(results.as_json()), encoding="utf-8")
