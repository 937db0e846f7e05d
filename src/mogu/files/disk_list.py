"""Lists that are on the disk: too many things to hold in memory, read back one by one.

In memory an item takes twelve bytes, for its place in a file that has no name and goes with the process. The file is read with ``pread``,
which is the reason for this module: what a table of Arrow maps into memory counts as resident once it was looked at, all of it. Knows
bytes; knows nothing of what is listed.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import IO, Generic, TypeVar, overload

from mogu.errors import MoguError

T = TypeVar("T")

HELD_BYTES = 1 << 20
"""As much of a list is in memory: what is short needs no disk."""


class DiskList(Sequence[T], Generic[T]):
    """A list that cannot be changed, and whose items are read from the disk each time.

    Items are pickled, into a file that nobody else can open; its folder is the system's for temporary files, which ``TMPDIR`` names.
    Slices and what :meth:`pick` takes share the file. Equal to any sequence of equal items.

    Args:
        items: written one after the other as they come.

    Raises:
        MoguError: the disk is full, or there is no folder for temporary files.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._store = _Store()
        self._starts, self._sizes = array("Q"), array("I")
        for item in items:
            content = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
            self._starts.append(self._store.append(content))
            self._sizes.append(len(content))
        self._store.finish()

    def pick(self, indices: Iterable[int]) -> DiskList[T]:
        """The items at some indices, in their order; an index may come again."""
        picked: DiskList[T] = object.__new__(DiskList)
        picked._store, picked._starts, picked._sizes = self._store, array("Q"), array("I")
        for index in indices:
            picked._starts.append(self._starts[index])
            picked._sizes.append(self._sizes[index])
        return picked

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> DiskList[T]: ...
    def __getitem__(self, index: int | slice) -> T | DiskList[T]:
        if isinstance(index, slice):
            return self.pick(range(*index.indices(len(self))))
        item: T = pickle.loads(self._store.read(self._starts[index], self._sizes[index]))
        return item

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"[{', '.join([*map(repr, islice(self, 3)), *['…'] * (len(self) > 3)])}]"


def pick(items: Sequence[T], indices: Iterable[int]) -> Sequence[T]:
    """The items at some indices: where they are if they are on the disk, else as a list."""
    return items.pick(indices) if isinstance(items, DiskList) else [items[index] for index in indices]


class _Store:
    """Bytes, one after the other: in memory while they are few, then in a file without a name."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._file: IO[bytes] | None = None
        self._end = 0

    def append(self, content: bytes) -> int:
        """Add some, and return where they begin."""
        start, self._end = self._end, self._end + len(content)
        try:
            if self._file is None and self._end > HELD_BYTES:
                self._file = tempfile.TemporaryFile(prefix="mogu-")  # noqa: SIM115 - open as long as the list
                self._file.write(self._held)
                self._held.clear()
            if self._file is None:
                self._held += content
            else:
                self._file.write(content)
        except OSError as error:
            raise _no_room(error) from error
        return start

    def finish(self) -> None:
        """Have what was added where it is read."""
        try:
            if self._file is not None:
                self._file.flush()
        except OSError as error:
            raise _no_room(error) from error

    def read(self, start: int, size: int) -> bytes:
        if self._file is None:
            return bytes(self._held[start : start + size])
        return os.pread(self._file.fileno(), size, start)

    def __del__(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # what could not be written is written once more
                self._file.close()


def _no_room(error: OSError) -> MoguError:
    return MoguError(
        f"Temporary data could not be written: {error.strerror or error}",
        expected="a folder for temporary files, with room for as much as the data takes",
        action="free some space, or name another folder in the environment variable TMPDIR",
    )
