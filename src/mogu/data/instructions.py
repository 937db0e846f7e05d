"""Read plain instructions, which people have before they have records, from text, CSV and JSONL files.

Knows three file formats and the usual names of their columns; knows nothing of labels, or of how missing answers are made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mogu.data.records import MAX_TEXT_CHARACTERS
from mogu.data.rows import TableRow, csv_rows, good_lines, jsonl_rows
from mogu.errors import DataError
from mogu.files.disk_list import DiskList

INSTRUCTION_COLUMNS = ("instruction", "prompt", "goal", "question", "behavior", "text")
"""The columns that are tried in this order if none is named."""

ANSWER_COLUMNS = ("affirm", "output", "answer", "response", "completion")
"""The columns that are tried in this order for an answer; a row may have none of them."""

_NOTHING = re.compile(
    r"[<\[(\"']?\s*(?:no[ _-]?(?:input|output|context|response|answer|content)|n/?a|nan|null|not applicable|empty)\s*[>\])\"']?\.?",
    re.IGNORECASE,
)
"""What data sets write where they have nothing: Alpaca and its descendants do so in many ways."""


@dataclass(frozen=True)
class Instruction:
    """One instruction of a file.

    Args:
        text: the instruction.
        number: its number among the file's instructions, from 1.
        answer: an answer that complies, if the file has one.
    """

    text: str
    number: int
    answer: str | None = None


def read_instructions(path: Path, column: str | None = None) -> Sequence[Instruction]:
    """Read the instructions of a ``.txt`` (one a line), ``.csv`` (with a header) or ``.jsonl`` file.

    A row with Alpaca's two columns ``instruction`` and ``input`` becomes one instruction: both, separated by a blank line. What stands for
    nothing (``<noinput>``, ``<No Output>``, ``N/A``) is nothing. Instructions are on the disk, and read from there each time.

    Args:
        path: the file; its ending determines the format.
        column: the column or field that holds the instruction; by default the first of ``INSTRUCTION_COLUMNS`` that it has.

    Raises:
        DataError: the file is missing, empty, broken, of another format or without the column, or a row has no instruction.
    """
    rows: Iterator[TableRow]
    match path.suffix.lower():
        case ".txt":
            if column is not None:
                raise DataError(
                    f"{path} is a text file, which has no column {column!r}",
                    expected="a column's name only for .csv and .jsonl files",
                    action="leave the column out",
                )
            rows = (TableRow(number, {"instruction": text}) for number, text in good_lines(path) if text.strip())
        case ".csv":
            rows = csv_rows(path)
        case ".jsonl":
            rows = jsonl_rows(path)
        case ending:
            raise DataError(
                f"{path} ends in {ending or 'nothing'!r}",
                expected="a file of instructions ending in .txt (one a line), .csv or .jsonl",
                action="convert or rename the file",
            )
    instructions = DiskList(_instruction(path, row, column, number) for number, row in enumerate(rows, 1))
    if not instructions:
        raise DataError(f"{path} holds no instruction", expected="at least one", action="check how the file was made")
    return instructions


def _instruction(path: Path, row: TableRow, column: str | None, number: int) -> Instruction:
    name = column or next((known for known in INSTRUCTION_COLUMNS if known in row.fields), None)
    if name is None or name not in row.fields:
        raise DataError(
            f"{path}, line {row.line}, has no column {name!r}; it has {', '.join(map(repr, row.fields))}"
            if name
            else f"{path}, line {row.line}, has none of the usual columns; it has {', '.join(map(repr, row.fields))}",
            expected=f"a column that holds the instruction ({', '.join(INSTRUCTION_COLUMNS)}, or one that you name)",
            action="name the column on the command line, with --column, --benign-column or --malicious-column",
        )
    text = _text(path, row, name)
    if not text:
        raise DataError(
            f"{path}, line {row.line}: the instruction in {name!r} is empty",
            expected="an instruction in every row",
            action="delete the row or fill it in",
        )
    if name == "instruction" and (context := _text(path, row, "input")):
        text = f"{text}\n\n{context}"
    answers = (_text(path, row, known) for known in ANSWER_COLUMNS if known != name)
    return Instruction(text, number, next((answer for answer in answers if answer), None))


def _text(path: Path, row: TableRow, name: str) -> str:
    value = row.fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{path}, line {row.line}: {name!r} holds a {type(value).__name__}",
            expected="text",
            action="correct the row or name another column",
        )
    if len(value) > MAX_TEXT_CHARACTERS:
        raise DataError(
            f"{path}, line {row.line}: {name!r} holds {len(value):,} characters",
            expected=f"at most {MAX_TEXT_CHARACTERS:,} characters",
            action="delete or shorten the row",
        )
    return "" if stands_for_nothing(value) else value.strip()


def stands_for_nothing(text: str) -> bool:
    """Whether a cell says in words that there is nothing in it: ``<noinput>``, ``<No Output>``, ``N/A``."""
    return _NOTHING.fullmatch(text.strip()) is not None
