"""The header of a GGUF file, walked through before anything believes it.

A header says how long its texts and lists are, how many tensors there are and how large. Readers believe it, and run or allocate without
end where it lies. Knows the layout of the format; keeps nothing of what it says.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"GGUF"
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of the types of numbers, in bytes
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 8
_DEEPEST = 2
_MOST_WEIGHTS_A_BYTE = 8  # quantizations keep more than a bit a weight


def check_header(file: Path) -> None:
    """Hold what the header of a GGUF file claims against the file's size.

    Raises:
        ValueError: it is no GGUF file, or claims more than it holds.
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        _Walk(stream, file.stat().st_size).all()


class _Walk:
    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size
        self._order = "<"

    def all(self) -> None:
        if self._stream.read(4) != _MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self._number("I")
        if version & 0xFFFF == 0:  # of the other byte order
            self._order = ">"
        tensors, fields = self._number("Q"), self._number("Q")
        self._claim(tensors, 24)
        self._claim(fields, 13)
        for _ in range(fields):
            self._skip_text()
            self._skip_value(self._number("I"))
        weights = 0
        for _ in range(tensors):
            weights += self._tensor()
        if weights > _MOST_WEIGHTS_A_BYTE * self._size:
            raise ValueError(f"its tensors are said to have {weights:,} weights, more than {self._size:,} bytes can hold")

    def _tensor(self) -> int:
        """Walk through one tensor's description; return how many weights it has."""
        self._skip_text()
        dimensions = self._number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"a tensor is said to have {dimensions:,} dimensions")
        weights = 1
        for _ in range(dimensions):
            weights *= self._number("Q")
        self._skip(12)  # type and offset
        return weights

    def _skip_value(self, kind: int, depth: int = 0) -> None:
        if kind in _SIZES:
            self._skip(_SIZES[kind])
        elif kind == _STRING:
            self._skip_text()
        elif kind == _ARRAY and depth < _DEEPEST:
            inner, count = self._number("I"), self._number("Q")
            if inner in _SIZES:
                self._skip(_SIZES[inner] * count)
                return
            self._claim(count, 8)
            for _ in range(count):
                self._skip_value(inner, depth + 1)
        else:
            raise ValueError(f"a value is said to be of type {kind}")

    def _skip_text(self) -> None:
        self._skip(self._number("Q"))

    def _number(self, form: str) -> int:
        length = struct.calcsize(form)
        content = self._stream.read(length)
        if len(content) < length:
            raise ValueError("its header is cut short")
        (number,) = struct.unpack(self._order + form, content)
        return int(number)

    def _claim(self, count: int, each: int) -> None:
        """Refuse a number of things that the rest of the file has no room for."""
        if count * each > self._size - self._stream.tell():
            raise ValueError(f"its header claims {count:,} entries, more than the rest of the file can hold")

    def _skip(self, length: int) -> None:
        self._claim(length, 1)
        self._stream.seek(length, 1)
