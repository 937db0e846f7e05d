"""Digests of files, by which what a disk has lost or changed is noticed. Knows bytes; knows nothing of what they mean."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

_READ_AT_ONCE = 1 << 22


def file_digest(file: Path) -> str:
    """SHA-256 of a file; a file that has not changed is read once in a process.

    Raises:
        OSError: it cannot be read.
    """
    status = file.stat()
    return _file_digest(file.resolve(), status.st_size, status.st_mtime_ns)


def folder_digests(folder: Path, *, leaving_out: frozenset[str] = frozenset()) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path in there.

    Args:
        folder: the folder.
        leaving_out: names directly in the folder, of files or of folders, that do not count.

    Raises:
        OSError: one cannot be read.
    """
    files = [file for entry in sorted(folder.iterdir()) if entry.name not in leaving_out for file in [entry, *sorted(entry.rglob("*"))]]
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in files if file.is_file()}


def first_damage(folder: Path, digests: Mapping[str, str]) -> str | None:
    """Name the first file that is missing or is no longer what it was, with what is wrong with it; ``None`` if all are as they were.

    Args:
        folder: where they are.
        digests: SHA-256 of each, by its path from the folder.
    """
    for name, digest in digests.items():
        file = folder / name
        try:
            if file_digest(file) != digest:
                return f"{file} is not what was written"
        except OSError as error:
            return f"{file} cannot be read: {error.strerror}"
    return None


@functools.cache
def _file_digest(file: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_READ_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()
