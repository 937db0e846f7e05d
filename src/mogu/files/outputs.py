"""One process at an output at a time. Knows locks and leftovers; knows nothing of what is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mogu.errors import MoguError
from mogu.files.atomic import remove_leftovers
from mogu.files.locks import LOCK_FILE, locked


@contextmanager
def one_process_at(output: Path, lock: Path | None = None) -> Iterator[None]:
    """Keep an output to this process until the block ends, cleared of what killed ones left half-written there.

    Where the block fails before it has written anything, the folder of the lock goes again, if it was made for it.

    Args:
        output: a folder, or a file.
        lock: the lock file; by default it lies in the folder, which is made.

    Raises:
        MoguError: another process is writing there, or the lock cannot be made.
    """
    busy = MoguError(
        f"Another process is writing {output}",
        expected="one process at a time at an output",
        action="wait for it, stop it, or choose another output",
    )
    lock = lock or output / LOCK_FILE
    made = not lock.parent.exists()
    with locked(lock, busy):
        remove_leftovers(output)
        try:
            yield
        except BaseException:
            if made and list(lock.parent.iterdir()) == [lock]:
                lock.unlink()
                lock.parent.rmdir()
            raise
