"""The table of a sweep: of each combination the mean over its seeds of what was measured on the dev records, and how far they lie apart.

Knows cells that are read; trains nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mogu.files.atomic import atomic_file
from mogu.files.json_files import write_json
from mogu.training.selection import DevMetrics

RESULTS_FILE, TABLE_FILE = "sweep.json", "sweep.csv"
MEASURES = ("malicious_refused", "benign_answered", "borderline_answered", "balanced_accuracy")
"""On the dev records; the third only where there are borderline ones."""


def row(settings: Sequence[str], cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row: the settings, how many seeds, and of each measure the mean and the standard deviation over seeds.

    The standard deviation is ``None`` for one seed; the base model, which the seed does not change, has its measures under ``base``.

    Args:
        settings: the combination.
        cells: what was measured under each seed.
    """
    chosen = [cell["chosen"] for cell in cells]
    base = cells[0]["base_on_dev"]
    measured = [name for name in MEASURES if name in chosen[0]]
    values = {name: [trial[name] for trial in chosen] for name in measured}
    return {
        "settings": list(settings),
        "seeds": len(cells),
        **{name: {"mean": fmean(seen), "deviation": stdev(seen) if len(seen) > 1 else None} for name, seen in values.items()},
        "base": {name: base[name] for name in measured if name in base} | {"balanced_accuracy": DevMetrics(**base).balanced_accuracy},
    }


def best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row of highest mean balanced accuracy; among equals the first."""
    return max(rows, key=lambda row: round(row["balanced_accuracy"]["mean"], 9))


def write(results: Mapping[str, Any], out: Path) -> None:
    """Write ``sweep.json`` and ``sweep.csv``.

    Raises:
        MoguError: the folder cannot be written.
    """
    write_json(out / RESULTS_FILE, results)
    rows = [_flat(row) for row in results["points"]]
    with atomic_file(out / TABLE_FILE) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = dict(setting.split("=", 1) for setting in row["settings"]) | {"seeds": row["seeds"]}
    for name in MEASURES:
        if name in row:
            flat |= {name: row[name]["mean"], f"{name}_deviation": row[name]["deviation"], f"{name}_base": row["base"][name]}
    return flat
