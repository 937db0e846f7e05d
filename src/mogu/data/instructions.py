"""Plain instructions out of text, CSV and JSONL files: what people have before they have records.

Knows three file formats and the usual names of their columns; knows nothing of labels or of how missing answers are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mogu.data.records import MAX_TEXT_CHARACTERS
from mogu.data.rows import Row, csv_rows, good_lines, jsonl_rows
from mogu.errors import DataError

INSTRUCTION_COLUMNS = ("instruction", "prompt", "goal", "question", "behavior", "text")
"""Looked for in this order where no column is named."""

ANSWER_COLUMNS = ("affirm", "output", "answer", "response", "completion")
"""Looked for in this order; a row may well have none."""


@dataclass(frozen=True)
class Instruction:
    """One instruction of a file.

    Args:
        text: the instruction.
        number: its place among the file's instructions, from 1.
        answer: an answer that complies, where the file has one.
    """

    text: str
    number: int
    answer: str | None = None


def read_instructions(path: Path, column: str | None = None) -> list[Instruction]:
    """The instructions of a ``.txt`` (one a line), ``.csv`` (with a header) or ``.jsonl`` file.

    A row with Alpaca's two columns ``instruction`` and ``input`` becomes one instruction: both, with a blank line between.

    Args:
        path: the file; its ending tells the format.
        column: the column or field that holds the instruction; by default the first of ``INSTRUCTION_COLUMNS`` found.

    Raises:
        DataError: the file is missing, empty, broken, of another format, without the column, or has a row with no instruction.
    """
    rows: Iterator[Row]
    match path.suffix.lower():
        case ".txt":
            if column is not None:
                raise DataError(
                    f"{path} is a text file, which has no column {column!r}",
                    expected="a column's name only for .csv and .jsonl files",
                    action="leave the column out",
                )
            rows = (Row(number, {"instruction": text}) for number, text in good_lines(path) if text.strip())
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
    instructions = [_instruction(path, row, column, number) for number, row in enumerate(rows, 1)]
    if not instructions:
        raise DataError(f"{path} holds no instruction", expected="at least one", action="check how the file was made")
    return instructions


def _instruction(path: Path, row: Row, column: str | None, number: int) -> Instruction:
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


def _text(path: Path, row: Row, name: str) -> str:
    value = row.fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{path}, line {row.line}: {name!r} holds a {type(value).__name__}",
            expected="text",
            action="mend the row or name another column",
        )
    if len(value) > MAX_TEXT_CHARACTERS:
        raise DataError(
            f"{path}, line {row.line}: {name!r} holds {len(value):,} characters",
            expected=f"at most {MAX_TEXT_CHARACTERS:,} characters",
            action="delete or shorten the row",
        )
    return value.strip()
