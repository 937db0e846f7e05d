"""Outputs appear whole or not at all: somebody else's folder, a full disk, a limit on file size, a kill at any file-system call."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mogu import MoguError, MoguModel
from mogu.files import atomic
from mogu.files.atomic import atomic_file, atomic_folder, check_replaceable, check_writable
from tests.kills import killed_at, read_only


@pytest.fixture
def model(make_pair) -> MoguModel:
    return make_pair("llama", torch.float32)[0]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_somebody_else_s_folder_is_left_alone(model, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    with pytest.raises(MoguError, match=r"exists and was not written by mogu.*Expected: .*What to do: "):
        model.save_pretrained(theirs)
    with pytest.raises(MoguError, match="exists and was not written by mogu"):
        model.save_pretrained(theirs / "thesis.txt")
    assert everything(tmp_path) == {"theirs/thesis.txt": b"years of work"}


def test_a_missing_and_an_empty_folder_are_taken(model, tmp_path):
    (tmp_path / "empty").mkdir()
    model.save_pretrained(tmp_path / "empty")
    model.save_pretrained(tmp_path / "deep" / "er")
    assert everything(tmp_path / "empty") == everything(tmp_path / "deep" / "er")


def test_an_error_half_way_leaves_what_was_there(model, tmp_path):
    target = tmp_path / "saved"
    model.save_pretrained(target)
    before = everything(tmp_path)

    def half_a_folder() -> None:
        with atomic_folder(target, marker="mogu_config.json") as scratch:
            (scratch / "half").touch()
            raise ZeroDivisionError

    def half_a_file() -> None:
        with atomic_file(target / "README.md") as scratch:
            scratch.write_text("half")
            raise ZeroDivisionError

    for write in (half_a_folder, half_a_file):
        with pytest.raises(ZeroDivisionError):
            write()
    assert everything(tmp_path) == before


SAVE_WITHOUT_ROOM = """
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from mogu import MoguConfig, MoguError, MoguModel
torch.manual_seed(0)
base = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=12, num_attention_heads=4))
model = MoguModel.from_base(base, MoguConfig(rank=16))
if len(sys.argv) > 2:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    model.save_pretrained(sys.argv[1])
except MoguError as error:
    print(error)
else:
    print("saved")
"""


def save_in_a_process(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", SAVE_WITHOUT_ROOM, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="this system limits no file sizes")
def test_a_file_that_may_not_grow(model, tmp_path):
    target = tmp_path / "saved"
    model.save_pretrained(target)
    before = everything(tmp_path)
    output = save_in_a_process(str(target), "20000")
    assert "could not be written" in output
    assert "File too large" in output
    assert "What to do: free space" in output
    assert everything(tmp_path) == before


def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        output = save_in_a_process(str(disk / "saved"))
        assert "could not be written: No space left on device" in output
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_where_one_may_not_write(model, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(MoguError, match="could not be written: Permission denied"):
        model.save_pretrained(tmp_path / "saved")


def test_a_path_below_a_file(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MoguError, match="could not be written"):
        model.save_pretrained(tmp_path / "file" / "saved")


def write_version(target: Path, version: str) -> None:
    """A folder whose two files belong together."""
    with atomic_folder(target, marker="marker") as folder:
        (folder / "marker").write_text(version)
        (folder / "weights").write_text(version)


@pytest.mark.parametrize("exchange", [True, False], ids=["one step", "three steps"])
def test_a_kill_at_any_call_leaves_one_whole_folder_and_the_users_files(exchange, tmp_path, monkeypatch):
    """Where the system exchanges two names in one step, the folder is there for any reader; elsewhere, for the next run."""
    if not exchange:
        monkeypatch.setattr(atomic, "_exchanged", lambda *_: False)  # as on macOS and NFS
    call, seen = 0, set()
    while True:
        call += 1
        place = tmp_path / str(call)
        write_version(place / "model", "old")
        (place / "model" / "notes.txt").write_text("mine")
        killed = killed_at(call, write_version, place / "model", "new")
        if not exchange:
            check_replaceable(place / "model", marker="marker")
        versions = {(place / "model" / name).read_text() for name in ("marker", "weights")}
        assert len(versions) == 1
        seen |= versions
        assert any(file.read_text() == "mine" for file in place.glob("model*/notes.txt"))
        write_version(place / "model", "newer")
        assert (place / "model" / "weights").read_text() == "newer"
        assert not [path for path in place.iterdir() if path.name.startswith(".")]  # what the kill left is gone
        if not killed:
            break
    assert call > 10
    assert seen == {"old", "new"}


def test_a_kill_at_any_call_leaves_one_whole_file(tmp_path):
    def write(text: str) -> None:
        with atomic_file(tmp_path / "file") as scratch:
            scratch.write_text(text)

    write("old")
    calls = 1
    while killed_at(calls, write, "new"):
        assert (tmp_path / "file").read_text() in ("old", "new")
        write("old")
        calls += 1
    assert calls > 5
    assert everything(tmp_path) == {"file": b"new"}


def test_everything_is_on_the_disk_before_it_is_named(tmp_path, monkeypatch):
    write_version(tmp_path / "model", "old")
    done: list[str] = []
    fsync, replace, exchanged = os.fsync, os.replace, atomic._exchanged

    def inside(path: str | Path) -> str:
        return "/".join(part for part in Path(path).relative_to(tmp_path).parts if not part.endswith(".incoming"))

    def synced(descriptor: int) -> None:
        done.append("sync " + inside(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("name " + inside(paths[1])), replace(*paths)))
    monkeypatch.setattr(atomic, "_exchanged", lambda *paths: (done.append("name " + inside(paths[1])), exchanged(*paths))[1])
    write_version(tmp_path / "model", "new")
    assert sorted(done[:3]) == ["sync new", "sync new/marker", "sync new/weights"]
    assert done[3] == "name model"
    assert done[-1] == "sync "
    done.clear()
    with atomic_file(tmp_path / "file") as scratch:
        scratch.write_text("new")
    assert done == ["sync file", "name file", "sync "]


def test_what_else_an_output_held_is_kept_beside_it(tmp_path, caplog):
    target = tmp_path / "model"
    write_version(target, "old")
    (target / "evaluation").mkdir()
    (target / "evaluation" / "results.json").write_text("mine")
    (target / ".lock").touch()
    write_version(target, "new")
    assert everything(tmp_path) == {
        "model/marker": b"new",
        "model/weights": b"new",
        "model-kept/evaluation/results.json": b"mine",
    }
    assert "kept in" in caplog.text
    assert "evaluation/results.json" in caplog.text
    (target / "more.txt").write_text("mine, too")
    write_version(target, "newer")
    assert (tmp_path / "model-kept-2" / "more.txt").read_text() == "mine, too"
    assert (tmp_path / "model-kept" / "evaluation" / "results.json").read_text() == "mine"


def test_a_link_is_followed_and_stays(tmp_path):
    write_version(tmp_path / "elsewhere" / "model", "old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "model")
    (tmp_path / "elsewhere" / "file").write_text("old")
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere" / "file")
    write_version(tmp_path / "link", "new")
    with atomic_file(tmp_path / "file") as scratch:
        scratch.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").is_symlink()
    assert everything(tmp_path / "elsewhere") == {"file": b"new", "model/marker": b"new", "model/weights": b"new"}


def test_what_a_living_process_is_writing_is_no_leftover(tmp_path):
    def take_turns() -> None:
        write_version(tmp_path / "model", "theirs")
        os._exit(0)

    with atomic_folder(tmp_path / "model", marker="marker") as folder:
        (folder / "marker").write_text("ours")
        if (child := os.fork()) == 0:
            take_turns()
        assert os.waitpid(child, 0)[1] == 0
        (folder / "weights").write_text("ours")
    assert everything(tmp_path) == {"model/marker": b"ours", "model/weights": b"ours"}


def test_a_folder_that_a_kill_left_without_its_marker_is_ours_to_take(tmp_path):
    def begin() -> None:
        with atomic_file(tmp_path / "work" / "marker") as scratch:
            scratch.write_text("{}")

    (tmp_path / "work").mkdir()
    (tmp_path / "work" / ".lock").touch()
    assert killed_at(8, begin)
    assert list((tmp_path / "work").glob(".marker.*"))
    check_replaceable(tmp_path / "work", marker="marker")
    (tmp_path / "work" / "thesis.txt").touch()
    with pytest.raises(MoguError, match="was not written by mogu"):
        check_replaceable(tmp_path / "work", marker="marker")


def test_a_read_only_place_is_noticed_before_anything_is_done(tmp_path):
    place = tmp_path / "place"
    with read_only(place):
        for target in (place, place / "out", place / "deep" / "er"):
            with pytest.raises(MoguError, match=r"could not be written: .* may not be written to"):
                check_replaceable(target, marker="marker")
            with pytest.raises(MoguError, match="may not be written to"):
                check_writable(target)
        assert list(place.iterdir()) == []
