"""Instructions to analyze, with their labels if a file has them: records, or a plain list.

Knows the readers of :mod:`mogu.data`; knows nothing of models. A file with one label, or with none, is enough here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mogu.data.instructions import read_instructions
from mogu.data.record_files import inspect_records
from mogu.data.records import Record, last_request
from mogu.data.rows import TableRow, csv_rows, jsonl_rows
from mogu.errors import DataError

LABEL_COLUMNS = ("label", "category")
"""The columns of a plain list that are searched for a label, in this order; a list may have neither."""

UNLABELED = "unlabeled"


@dataclass(frozen=True)
class LabeledInstruction:
    """One instruction.

    Args:
        id: a record's own, else the instruction's number in its file, from 1.
        label: the file's label, such as ``"benign"``; ``"unlabeled"`` if it has none.
        conversation: messages.
        tools: the tools that the model is offered, if any.
    """

    id: str
    label: str
    conversation: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] | None = None

    @property
    def instruction(self) -> str:
        """The user's last turn."""
        return last_request(self.conversation)

    @classmethod
    def plain(cls, id: str, label: str, text: str) -> LabeledInstruction:
        """Return an instruction that is a single user message."""
        return cls(id, label, ({"role": "user", "content": text},))


def read_labeled_instructions(path: Path, column: str | None = None) -> list[LabeledInstruction]:
    """Read a file of records (as ``mogu data build`` writes it), or a ``.txt``, ``.csv`` or ``.jsonl`` list of instructions.

    Args:
        path: the file; a ``.jsonl`` whose first line has the fields of a record is a file of records.
        column: the column of a list that holds the instruction; by default the usual names are tried.

    Raises:
        DataError: the file cannot be used.
    """
    ending = path.suffix.lower()
    if column is None and ending == ".jsonl" and {"id", "affirm", "reject"} <= set(next(jsonl_rows(path), TableRow(0, {})).fields):
        return [LabeledInstruction(record.id, record.label, tuple(record.conversation), record.tools) for record in _records(path)]
    instructions = read_instructions(path, column)
    rows = {".csv": csv_rows, ".jsonl": jsonl_rows}.get(ending)
    labels = [_label(row) for row in rows(path)] if rows is not None else [UNLABELED] * len(instructions)
    return [
        LabeledInstruction.plain(str(instruction.number), label, instruction.text)
        for instruction, label in zip(instructions, labels, strict=True)
    ]


def _label(row: TableRow) -> str:
    values = (row.fields.get(name) for name in LABEL_COLUMNS)
    return next((value.strip() for value in values if isinstance(value, str) and value.strip()), UNLABELED)


def _records(path: Path) -> Sequence[Record]:
    inspection = inspect_records(path)
    # A problem without a line is that of the whole file, which has one label only; that is fine here.
    if bad := [problem for problem in inspection.problems if problem.line is not None]:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise DataError(
            f"{path}, {bad[0]}{more}",
            expected="one record a line",
            action=f"correct the file; `mogu data validate {path}` lists every problem",
        )
    return inspection.records
