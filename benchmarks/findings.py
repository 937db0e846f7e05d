"""Measured numbers as rows: compare them with their targets, print them as one table, save them as JSON and Markdown.

Knows numbers and texts; knows nothing of how they were measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Finding:
    """One measured number.

    Args:
        what: the quantity.
        case: the lengths or the method that it was measured for.
        value: the number.
        unit: ``"×"``, ``"%"``, ``"ms"`` … or none.
        at_most: target, an upper limit.
        at_least: target, a lower limit.
        note: context, such as the absolute numbers.
    """

    what: str
    case: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; ``None`` if there is none."""
        if self.at_most is not None:
            return self.value <= self.at_most
        if self.at_least is not None:
            return self.value >= self.at_least
        return None

    def cells(self) -> list[str]:
        """Return the row as texts."""
        limit = self.at_most if self.at_most is not None else self.at_least
        sign = "≤" if self.at_most is not None else "≥"
        target = "" if limit is None else f"{sign} {limit:g} {self.unit}".rstrip()
        verdict = {None: "", True: "yes", False: "no"}[self.holds]
        return [self.what, self.case, f"{self.value:.4g} {self.unit}".rstrip(), target, verdict, self.note]


COLUMNS = ["measured", "for", "value", "target", "holds", "beside it"]


def show(findings: Sequence[Finding], machine: Mapping[str, Any]) -> None:
    """Print the table."""
    table = Table(title=", ".join(f"{name} {value}" for name, value in machine.items()))
    for column in COLUMNS:
        table.add_column(column, justify="right" if column == "value" else "left")
    for finding in findings:
        style = {None: None, True: "green", False: "red"}[finding.holds]
        table.add_row(*finding.cells(), style=style)
    console = Console()
    if not console.is_terminal:  # a log file does not wrap lines
        console.width = 160
    console.print(table)


def save(folder: Path, findings: Sequence[Finding], machine: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    """Write ``results.json``, which has every single timing, and ``results.md``, the table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [asdict(finding) | {"holds": finding.holds} for finding in findings]
    content = {"machine": dict(machine), "findings": rows, **details}
    (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    lines = [_markdown_row(COLUMNS), _markdown_row(["---"] * len(COLUMNS)), *(_markdown_row(finding.cells()) for finding in findings)]
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    (folder / "results.md").write_text("\n".join([*lines, "", f"Measured on: {facts}.", ""]), encoding="utf-8")


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
