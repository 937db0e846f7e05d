"""Read tables from files: rows with named fields, from CSV and JSONL.

Knows the two formats and names the line of a bad row; knows nothing of what the fields mean.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mogu.errors import DataError
from mogu.files.text_files import parse_json, read_lines


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Args:
        line: the line of the file on which it starts, from 1.
        fields: its values by the names of their columns.
    """

    line: int
    fields: Mapping[str, object]


def without_nulls(fields: Mapping[str, object]) -> dict[str, object]:
    """A row without the fields that hold null, nor those of the objects in its lists, such as messages.

    Tables of Arrow give every row every field that any row has. What lies deeper is left alone: null can be a value in a tool's
    arguments.
    """

    def given(value: object) -> object:
        return {name: inner for name, inner in value.items() if inner is not None} if isinstance(value, Mapping) else value

    present = {name: value for name, value in fields.items() if value is not None}
    return {name: [given(item) for item in value] if isinstance(value, list) else value for name, value in present.items()}


def good_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers, including blank ones.

    Raises:
        DataError: the file is missing or empty, or a line cannot be used.
    """
    for line in read_lines(path):
        if line.defect:
            raise DataError(
                f"{path}, line {line.number}, {line.defect}", expected="a line of UTF-8 text", action="correct or delete the line"
            )
        yield line.number, line.text


def jsonl_rows(path: Path) -> Iterator[TableRow]:
    """Yield the objects of a JSONL file; blank lines are skipped.

    Raises:
        DataError: the file is missing or empty, or a line holds no JSON object.
    """
    for number, text in good_lines(path):
        if not text.strip():
            continue
        try:
            value = parse_json(text)
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}, {error}", expected="one JSON object a line", action="correct or delete the line"
            ) from error
        if not isinstance(value, dict):
            raise DataError(
                f"{path}, line {number}, holds a JSON {type(value).__name__}",
                expected="one JSON object a line",
                action="write the file as JSONL; plain text lines belong in a .txt file",
            )
        yield TableRow(number, value)


def csv_rows(path: Path) -> Iterator[TableRow]:
    """Yield the rows of a CSV file, with the names in its header as fields.

    Raises:
        DataError: the file is missing or empty, or is not a CSV table with distinct columns.
    """
    # strict, because a quote that is never closed means a truncated file rather than a very long field
    reader = csv.reader((text + "\n" for _, text in good_lines(path)), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) < len(header):
            raise DataError(f"{path} names a column twice in its header", expected="distinct columns", action="rename one of them")
        start = reader.line_num + 1
        for values in reader:
            if values and len(values) != len(header):
                raise DataError(
                    f"{path}, line {start}, has {len(values)} fields where the header names {len(header)} columns",
                    expected="as many fields as columns in every row, with quotes around a field that holds commas",
                    action="correct the row",
                )
            if values:
                yield TableRow(start, dict(zip(header, values, strict=True)))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}, is not CSV: {error}",
            expected="comma-separated values with a header, every quote closed",
            action="correct the line, or save the table as CSV again",
        ) from error
