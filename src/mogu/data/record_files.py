"""Record files: one JSONL record a line, read whole or not at all, written whole or not at all.

Knows files and records; knows nothing of how records are made, of tokenizers or of models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from mogu.data.records import Record, origin_of_old_id
from mogu.data.rows import jsonl_rows, without_nulls
from mogu.errors import DataError, RecordError
from mogu.files.text_files import parse_json, read_lines, write_line_files

_FIELDS = ", ".join(Record.model_fields)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a record file.

    Args:
        line: the line's number, from 1; None if the problem is the file as a whole.
        field: the record's field, such as ``"label"`` or ``"messages.0.role"``; None if the problem is the whole line.
        reason: what the line holds and what is expected.
    """

    line: int | None
    field: str | None
    reason: str

    def __str__(self) -> str:
        location = [f"line {self.line}"] if self.line is not None else []
        location += [f"field {self.field!r}"] if self.field is not None else []
        return f"{', '.join(location)}: {self.reason}" if location else self.reason


@dataclass(frozen=True)
class Inspection:
    """Everything in a record file: its good records, and the problems of its bad lines."""

    records: tuple[Record, ...]
    problems: tuple[Problem, ...]


def inspect_records(path: Path) -> Inspection:
    """Read a record file to its end, whatever is wrong with it on the way.

    Raises:
        DataError: there is no such file, or all its lines are blank.
    """
    records: list[Record] = []
    problems: list[Problem] = []
    first_line_of: dict[str, int] = {}
    for line in read_lines(path):
        if line.defect:
            problems.append(Problem(line.number, None, line.defect))
            continue
        if not line.text.strip():
            continue
        try:
            record = _parse_record(line.text)
        except _BadRecord as error:
            problems.extend(Problem(line.number, field, reason) for field, reason in error.faults)
            continue
        if (first := first_line_of.setdefault(record.id, line.number)) != line.number:
            problems.append(Problem(line.number, "id", f"{_shown(record.id)} is the id of line {first} already; ids must be unique"))
            continue
        records.append(record)
    if not records and not problems:
        raise DataError(f"{path} holds only blank lines", expected="one JSON record a line", action="check how it was made")
    labels = Counter(record.label for record in records)
    if not problems and len(labels) == 1:
        (label,) = labels
        problems.append(Problem(None, "label", f"all {len(records)} records are {label}; both benign and malicious ones are needed"))
    return Inspection(tuple(records), tuple(problems))


def read_records(path: Path) -> list[Record]:
    """Read the records of a file in which nothing is wrong.

    Raises:
        DataError: something is wrong; the message names the first bad line, its field and the reason, and how many more there are.
    """
    inspection = inspect_records(path)
    if inspection.problems:
        first, *others = inspection.problems
        more = f" (and {len(others)} more)" if others else ""
        raise DataError(
            f"{path}, {first}{more}",
            expected=f"one JSON object a line with the fields {_FIELDS}, of both labels",
            action=f"correct the file; `mogu data validate {path}` lists every problem",
        )
    return list(inspection.records)


@contextmanager
def naming_lines(*files: object) -> Iterator[None]:
    """Let errors about a record name its line, where it comes from one of these record files.

    Raises:
        DataError: in the place of a :class:`~mogu.errors.RecordError`.
    """
    try:
        yield
    except RecordError as error:
        for file in files:
            line = _line_of(file, error.record_id) if isinstance(file, Path) else None
            if line is not None:
                raise DataError(f"{file}, line {line}: {error.found}", expected=error.expected, action=error.action) from error
        raise


def _line_of(file: Path, record_id: str) -> int | None:
    if not file.is_file():
        return None
    return next((row.line for row in jsonl_rows(file) if row.fields.get("id") == record_id), None)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records, one a line, or leave the path as it was; see :func:`write_record_files`."""
    write_record_files({path: list(records)})


def write_record_files(files: Mapping[Path, Sequence[Record]], *, stale: Iterable[Path] = ()) -> None:
    """Write several record files, all of them or none, see :func:`mogu.files.text_files.write_line_files`.

    Raises:
        MoguError: the disk is full or a folder is not writable; existing files are then unchanged.
    """
    lines = {path: (record.model_dump_json(exclude_unset=True) for record in records) for path, records in files.items()}
    write_line_files(lines, stale=stale)


class _BadRecord(Exception):
    def __init__(self, faults: list[tuple[str | None, str]]) -> None:
        self.faults = faults
        super().__init__(faults)


def _parse_record(text: str) -> Record:
    try:
        fields = parse_json(text)
    except ValueError as error:
        raise _BadRecord([(None, str(error))]) from error
    if not isinstance(fields, dict):
        raise _BadRecord([(None, f"is a JSON {type(fields).__name__}; a record is an object with the fields {_FIELDS}")])
    if isinstance(fields.get("id"), str) and not fields.keys() & {"wrapper", "source"}:
        fields |= origin_of_old_id(fields["id"])
    try:
        return Record.model_validate(without_nulls(fields))
    except ValidationError as error:
        faults: list[tuple[str | None, str]] = []
        for fault in error.errors(include_url=False):
            field = ".".join(map(str, fault["loc"])) or None
            faults.append((field, _explain(fault["type"], fault["msg"], fault["input"])))
        raise _BadRecord(faults) from error


def _explain(kind: str, message: str, value: object) -> str:
    match kind:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return f"is not a field of a record; those are {_FIELDS}"
        case "value_error":
            return message.removeprefix("Value error, ")
        case _:
            return f"is {_shown(value)}: {message[0].lower()}{message[1:]}"


def _shown(value: object) -> str:
    # repr, since a hostile file may hold escape sequences that would reach the terminal
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
