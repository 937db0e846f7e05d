"""Text files at the door: line by line, with every line that cannot be used named and explained, and written whole or not at all.

Knows bytes, encodings and JSON; knows nothing of records or instructions. Memory stays bounded by one line, whatever the file holds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mogu.errors import DataError
from mogu.files.atomic import atomic_file, sync

MAX_LINE_BYTES = 1_048_576
"""A longer line is refused unread: it is never an instruction, and would be tokenized into the model's whole memory."""


_MOST_DIGITS = 300


@dataclass(frozen=True)
class Line:
    """One line of a text file.

    Args:
        number: its place in the file, from 1.
        text: the line without its end; empty where there is a defect.
        defect: why the line cannot be used, as words that follow its name; empty if it can.
    """

    number: int
    text: str
    defect: str = ""


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a UTF-8 text file, blank ones included; bad ones come with their defect and reading goes on.

    Raises:
        DataError: no readable regular file is there, or it is empty.
    """
    _require_file(path)
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                too_long = len(raw) > MAX_LINE_BYTES
                while too_long and not raw.endswith(b"\n") and (raw := file.readline(MAX_LINE_BYTES)):
                    pass
                yield Line(number, "", f"is longer than {MAX_LINE_BYTES:,} bytes") if too_long else _decode(number, raw)
    except OSError as error:
        raise unreadable(path, error) from error


def read_whole(path: Path, max_bytes: int) -> str:
    """The text of a UTF-8 file that has to be read in one piece.

    Raises:
        DataError: no readable regular file is there, it is empty, longer than ``max_bytes``, or not UTF-8.
    """
    _require_file(path)
    return read_any(path, max_bytes)


def read_any(path: Path, max_bytes: int) -> str:
    """As :func:`read_whole`, also from a pipe, such as the shell's ``<(…)``, and from an empty file."""
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise DataError(
                f"{path} holds more than {max_bytes:,} bytes",
                expected=f"at most {max_bytes:,} bytes in a file that is read in one piece",
                action="split it, or write it as JSONL, one record a line",
            )
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start:,}",
            expected="a text file in UTF-8",
            action="convert it, for instance with iconv -t UTF-8",
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def write_line_files(files: Mapping[Path, Iterable[str]], *, stale: Iterable[Path] = ()) -> None:
    """Write several text files in UTF-8, all of them or none: each replaces its target only once all are on disk.

    The first one is named last, and one of its name goes before any other is replaced: where a kill falls in between, it is missing,
    rather than standing beside files of another time.

    Args:
        files: the lines of each file.
        stale: files that are to be gone when these are there.

    Raises:
        MoguError: the disk is full or a folder is not writable; existing files are then unchanged.
    """
    with ExitStack() as targets:
        scratch = {path: targets.enter_context(atomic_file(path)) for path in files}
        for path, lines in files.items():
            with scratch[path].open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{line}\n" for line in lines)
            sync(scratch[path])
        for path in (*list(files)[:1], *stale):
            path.unlink(missing_ok=True)


def parse_json(text: str) -> Any:
    """The value that one JSON text holds.

    Raises:
        ValueError: it is not JSON, gives a field twice, is nested too deeply, or holds half a character or an endless number; the
            message is words that follow the line's name.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique_fields, parse_int=_integer)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        cut_off = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        reason = "is cut off in the middle of its JSON" if cut_off else f"is not JSON: {error.msg} at character {error.pos + 1}"
        raise ValueError(reason) from error
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair, which is no character") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    return value


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file that the operating system would not let us read."""
    return DataError(
        f"{path} could not be read: {error.strerror or error}",
        expected="a text file that may be read",
        action="check the path and its permissions",
    )


def _require_file(path: Path) -> None:
    try:
        if not path.exists():
            raise DataError(f"There is no file {path}", expected="an existing text file", action="check the path")
        if not path.is_file():
            raise DataError(
                f"{path} is not a regular file", expected="a text file on disk", action="give a file, not a folder, pipe or device"
            )
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty", expected="a text file with at least one line", action="check how it was made")
    except OSError as error:
        raise unreadable(path, error) from error


def _decode(number: int, raw: bytes) -> Line:
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        return Line(number, "", f"is not UTF-8 text: {error.reason} at byte {error.start + 1} of the line")
    if "\0" in text:
        return Line(number, "", "holds a NUL character, so this is not a text file")
    return Line(number, text.rstrip("\r\n"))


def _integer(digits: str) -> int:
    """A whole number that a float can hold as well: Python reads longer ones slowly, and stumbles over them later."""
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"has a number of {len(digits):,} digits")
    return int(digits)


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"gives the field {twice!r:.200} twice")
    return fields
