"""Record files: one JSONL record a line, read whole or not at all, written whole or not at all, and never held in memory.

Knows files and records; knows nothing of how records are made, of tokenizers or of models.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from mogu.data.records import Record, origin_of_old_id
from mogu.data.rows import jsonl_rows, without_nulls
from mogu.data.text_digests import first_equals, text_digest
from mogu.errors import DataError, RecordError
from mogu.files.disk_list import DiskList
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

    records: Sequence[Record]
    problems: tuple[Problem, ...]


def inspect_records(path: Path) -> Inspection:
    """Read a record file to its end, whatever is wrong with it on the way.

    Raises:
        DataError: there is no such file, or all its lines are blank.
    """
    problems: list[Problem] = []
    labels: Counter[str] = Counter()
    lines, ids = array("Q"), array("Q")

    def parsed() -> Iterator[Record]:
        for line in read_lines(path):
            if line.defect:
                problems.append(Problem(line.number, None, line.defect))
            elif line.text.strip():
                try:
                    record = _parse_record(line.text)
                except _BadRecord as error:
                    problems.extend(Problem(line.number, field, reason) for field, reason in error.faults)
                else:
                    labels[record.label] += 1
                    lines.append(line.number)
                    ids.append(text_digest(record.id))
                    yield record

    records = DiskList(parsed())
    if not records and not problems:
        raise DataError(f"{path} holds only blank lines", expected="one JSON record a line", action="check how it was made")
    first = first_equals(ids)
    if repeated := [index for index, equal in enumerate(first) if equal != index]:
        for index in repeated:
            reason = f"{_shown(records[index].id)} is the id of line {lines[first[index]]} already; ids must be unique"
            problems.append(Problem(lines[index], "id", reason))
        problems.sort(key=lambda problem: problem.line or 0)
        labels -= Counter(records[index].label for index in repeated)
        records = records.pick(index for index, equal in enumerate(first) if equal == index)
    if not problems and len(labels) == 1:
        (label,) = labels
        problems.append(Problem(None, "label", f"all {len(records)} records are {label}; both benign and malicious ones are needed"))
    return Inspection(records, tuple(problems))


def read_records(path: Path) -> Sequence[Record]:
    """Read the records of a file in which nothing is wrong; they are on the disk, and read from there each time.

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
    return inspection.records


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
    write_record_files({path: records})


def write_record_files(files: Mapping[Path, Iterable[Record]], *, stale: Iterable[Path] = ()) -> None:
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
