"""A file that one process at a time can hold. Knows nothing of what is done while it is held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mogu.errors import MoguError

LOCK_FILE = ".lock"
"""The lock of a folder, within it."""


@contextmanager
def locked(file: Path, busy: Exception) -> Iterator[None]:
    """Hold a lock until the block ends; it ends with the process, too, however that ends.

    Args:
        file: made if it is missing; it stays, and being there means nothing.
        busy: raised at once if another process holds the lock.

    Raises:
        Exception: ``busy``.
        MoguError: the file cannot be made.
    """
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise busy from error
    except OSError as error:
        raise MoguError(
            f"{file} could not be written: {error.strerror or error}",
            expected="a place with enough space that you may write to",
            action="free space, or choose another output path",
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_in_turn(file: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold a lock until the block ends, once whoever holds it now has let go.

    Args:
        file: as for :func:`locked`.
        waiting: called once if there is somebody to wait for.
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
