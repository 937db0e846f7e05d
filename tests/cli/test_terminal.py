"""Escape sequences of files are shown, not obeyed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

RunMogu = Callable[..., tuple[int, str, str]]
OWNED = "\x1b]0;owned\x07\x1b[2J\x9b31m\r"


@pytest.fixture
def model(saved_model: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved_model, tmp_path / "saved")
    return tmp_path / "saved"


def hostile(text: str) -> bool:
    return any((ord(character) < 32 and character not in "\t\n") or 0x7F <= ord(character) < 0xA0 for character in text)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_info(model: Path, run_mogu: RunMogu, options: list[str]) -> None:
    config = json.loads((model / "mogu_config.json").read_text())
    (model / "mogu_config.json").write_text(json.dumps(config | {"answer_marker": OWNED}))
    code, out, err = run_mogu("info", model, *options)
    assert code == 0, err
    assert not hostile(out + err)
    assert "\\u001b]0;owned\\u0007" in out
    if options:
        assert json.loads(out)["answer_marker"] == OWNED


def test_an_error_about_a_field_and_about_data(model: Path, run_mogu: RunMogu, tmp_path: Path) -> None:
    config = json.loads((model / "mogu_config.json").read_text())
    (model / "mogu_config.json").write_text(json.dumps(config | {OWNED: 1}))
    records = tmp_path / "pairs.jsonl"
    records.write_text(json.dumps({"id": OWNED, "label": OWNED, OWNED: OWNED}) + "\n")
    for arguments in (("info", model), ("verify", model), ("data", "validate", records), ("data", "validate", records, "--json")):
        code, out, err = run_mogu(*arguments)
        assert code
        assert not hostile(out + err), arguments


def test_verify(model: Path, run_mogu: RunMogu) -> None:
    code, out, err = run_mogu("verify", model)
    assert (code, err) == (0, "")
    *files, whole = out.splitlines()
    assert [line.split()[-1] for line in files] == sorted(json.loads((model / "mogu_config.json").read_text())["files"])
    digest = whole.split()[0]
    assert run_mogu("verify", model, "--sha256", digest)[0] == 0
    code, _, err = run_mogu("verify", model, "--sha256", "0" * 64)
    assert (code, "is not the model that was asked for" in err) == (2, True)
    (model / "router.safetensors").write_bytes((model / "router.safetensors").read_bytes()[:-1] + b"\x01")
    code, _, err = run_mogu("verify", model)
    assert (code, "router.safetensors is another file" in err) == (2, True)
    assert run_mogu("verify", model, "--accept")[0] == 0
    assert run_mogu("verify", model)[0] == 0
