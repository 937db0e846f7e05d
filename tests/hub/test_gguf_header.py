"""A GGUF file whose header claims more than the file holds is refused before anything is allocated for it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from mogu.errors import ModelFileError
from mogu.hub import resolve_source
from mogu.hub.gguf_header import check_header


def header(*, tensors: int = 0, fields: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, fields) + rest


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def tensor(*dimensions: int) -> bytes:
    return text(b"t") + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, 0, 0)


def array(inner: int, count: int) -> bytes:
    return text(b"key") + struct.pack("<IIQ", 9, inner, count)


CLAIMS = {
    "tensors": header(tensors=2**40),
    "fields": header(fields=2**63),
    "a text": header(fields=1, rest=struct.pack("<Q", 2**62)),
    "a list of numbers": header(fields=1, rest=array(4, 2**40) + b"\0" * 64),
    "a list of texts": header(fields=1, rest=array(8, 2**40) + b"\0" * 64),
    "a list of lists of lists": header(fields=1, rest=array(9, 1) + struct.pack("<IQIQ", 9, 1, 9, 1) + b"\0" * 64),
    "a type": header(fields=1, rest=text(b"key") + struct.pack("<I", 77) + b"\0" * 64),
    "a shape": header(tensors=1, rest=tensor(2**20, 2**20)),
    "dimensions": header(tensors=1, rest=text(b"t") + struct.pack("<I", 2**31) + b"\0" * 64),
    "nothing": b"GGUF",
    "another format": b"PK\x03\x04" + b"\0" * 64,
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_that_the_file_does_not_bear_out_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(CLAIMS[name])
    with pytest.raises(ValueError, match=r"."):
        check_header(file)
    pytest.importorskip("gguf", reason="the extra gguf is not installed")
    with pytest.raises(ModelFileError, match="is no GGUF file that can be read"):
        resolve_source(str(file))


def test_a_whole_file_passes(write_gguf: Callable[..., Path], tmp_path: Path) -> None:
    for quantization in ("F32", "Q4_0"):
        check_header(write_gguf(tmp_path / quantization / "tiny.gguf", quantization))
