"""A list on the disk is a list in all that can be asked of it, and takes no memory for what it holds."""

from __future__ import annotations

import os
import random
import resource
import tracemalloc
from pathlib import Path

import pytest

from mogu.errors import MoguError
from mogu.files.disk_list import HELD_BYTES, DiskList, pick


def things(size: int) -> list[tuple[str, int]]:
    rng = random.Random(0)
    return [(chr(rng.randrange(0x100, 0x2000)) * rng.randrange(size), number) for number in range(1000)]


@pytest.mark.parametrize("size", [5, 10_000], ids=["in memory", "in a file"])
def test_it_reads_as_the_list_that_it_was_made_of(size: int) -> None:
    plain = things(size)
    listed = DiskList(iter(plain))
    assert len(listed) == len(plain)
    assert listed == plain
    assert listed != plain[:-1]
    assert listed != [*plain[:-1], ("else", 0)]
    assert list(listed) == plain
    assert (listed[0], listed[-1], listed[17]) == (plain[0], plain[-1], plain[17])
    assert listed[3:900:7] == plain[3:900:7]
    assert listed[3:900:7][2] == plain[17]
    assert listed.index(plain[30]) == 30
    with pytest.raises(IndexError):
        listed[1000]


def test_picked_items_share_the_file_and_outlive_the_list() -> None:
    plain = things(10_000)
    picked = DiskList(plain).pick([5, 5, 999, -1])
    assert picked == [plain[5], plain[5], plain[999], plain[-1]]
    assert picked[1:] == [plain[5], plain[999], plain[-1]]
    assert pick(plain, [2, 1]) == pick(DiskList(plain), [2, 1]) == [plain[2], plain[1]]


def test_what_it_holds_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        listed = DiskList(os.urandom(500) for _ in range(20_000))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(listed) * 500 > 9 * HELD_BYTES
    assert held < HELD_BYTES / 2  # 12 bytes an item, and as it grows an eighth more


def test_a_file_is_nowhere_to_be_found_and_closed_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else None
    listed = DiskList(things(10_000))
    assert not list(tmp_path.iterdir())
    del listed
    assert before is None or len(os.listdir("/proc/self/fd")) == before


def test_without_room_there_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * HELD_BYTES, hard))
    try:
        with pytest.raises(MoguError, match=r"could not be written: File too large.*TMPDIR"):
            DiskList(things(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    assert DiskList(["short"]) == ["short"]
    with pytest.raises(MoguError, match=r"could not be written: No such file.*TMPDIR"):
        DiskList(things(10_000))
