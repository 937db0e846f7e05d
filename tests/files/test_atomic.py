"""Outputs appear whole or not at all: somebody else's folder, a full disk, a limit on file size."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mogu import MoguError, MoguModel
from mogu.files.atomic import atomic_file, atomic_folder


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
