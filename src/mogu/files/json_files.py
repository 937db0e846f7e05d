"""JSON files of ours: written whole or not at all, read back, and fingerprints of plain data. Knows nothing of what is in them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mogu.errors import MoguError
from mogu.files.atomic import atomic_file
from mogu.files.disk_list import DiskList

logger = logging.getLogger(__name__)

_SEAL = "sha256"


def fingerprint(*parts: Any) -> str:
    """SHA-256 of plain data: equal settings and equal data have equal fingerprints.

    A part that is an iterator, or a list on the disk, counts as a list of its items, and is never held in memory.
    """
    digest = hashlib.sha256()
    for text in _listed(map(_pieces, parts)):
        digest.update(text.encode())
    return digest.hexdigest()


def _pieces(part: Any) -> Iterator[str]:
    """The JSON of a part, in pieces."""
    if isinstance(part, Iterator | DiskList):
        yield from _listed([_json(item)] for item in part)
    else:
        yield _json(part)


def _listed(items: Iterable[Iterable[str]]) -> Iterator[str]:
    yield "["
    for number, pieces in enumerate(items):
        yield ", " if number else ""
        yield from pieces
    yield "]"


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=lambda other: list(other) if isinstance(other, DiskList) else str(other))


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON object of ours, or ``None`` where there is none.

    Raises:
        MoguError: it cannot be read, or is not JSON.
    """
    if not file.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(file) from error
    if not isinstance(record, dict):
        raise _damaged(file)
    return record


def write_json(file: Path, content: Any) -> None:
    """Write JSON in one step."""
    with atomic_file(file) as scratch:
        scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_sealed(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object in one step, with a digest of itself in the field ``sha256``."""
    content = json.loads(json.dumps(content))  # as it will be read
    write_json(file, {**content, _SEAL: fingerprint(content)})


def read_sealed(file: Path) -> dict[str, Any] | None:
    """What :func:`write_sealed` wrote, or ``None`` where there is none.

    Raises:
        MoguError: it is not what was written.
    """
    record = read_json(file)
    if record is not None and record.pop(_SEAL, None) != fingerprint(record):
        raise _damaged(file)
    return record


def read_kept(file: Path) -> dict[str, Any] | None:
    """What :func:`write_sealed` wrote, of things that can be made again; ``None``, with a warning, where that was damaged."""
    try:
        return read_sealed(file)
    except MoguError as error:
        logger.warning("%s; what it held is made again.", error.found)
        return None


def _damaged(file: Path) -> MoguError:
    return MoguError(
        f"{file} is damaged: it is not what was written",
        expected="the file as this release of mogu wrote it",
        action=f"look after the disk, delete {file.parent} and run the same command again: what was in there is made again",
    )
