"""Fingerprints of plain data, and of data that is not held in memory."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from mogu.files.disk_list import DiskList
from mogu.files.json_files import fingerprint

PARTS = ([], "text", {"b": [1, (2, 3)], "a": None}, [[1, 2], {"z": 1.5, "ü": True}], 7)


@pytest.mark.parametrize("parts", [(), ([],), PARTS, ([[]],)], ids=["none", "an empty list", "several", "a list in a list"])
def test_a_fingerprint_is_the_digest_of_the_json_of_its_parts(parts: tuple[object, ...]) -> None:
    assert fingerprint(*parts) == hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def test_iterators_and_lists_on_the_disk_count_as_lists() -> None:
    parts = tuple(part if isinstance(part, list) else [part] for part in PARTS)
    assert fingerprint(*map(iter, parts)) == fingerprint(*map(DiskList, parts)) == fingerprint(*parts)
    assert fingerprint(["nested", DiskList(parts)]) == fingerprint(["nested", list(parts)])


def test_what_json_does_not_know_counts_by_its_text() -> None:
    assert fingerprint(iter([Path("a/b")])) == fingerprint([Path("a/b")]) == fingerprint(["a/b"])
