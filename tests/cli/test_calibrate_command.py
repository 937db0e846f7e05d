"""`mogu calibrate` as a user meets it, on a tiny model."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

Mogu = Callable[..., subprocess.CompletedProcess[str]]


def test_calibrate_prints_what_it_gains_and_writes_on_request(
    mogu_process: Mogu, saved_model: Path, dev_records: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(saved_model, model)
    before = (model / "mogu_config.json").read_text()
    options = ["calibrate", str(model), "--dev", str(dev_records), "--max-benign-refusal", "1", "--max-new-tokens", "2"]
    shown = mogu_process(*options)
    assert shown.returncode == 0, shown.stderr
    assert "points of malicious requests refused" in shown.stdout
    assert "n 3" in shown.stdout
    assert (model / "mogu_config.json").read_text() == before
    written = json.loads(mogu_process(*options, "--write", "--json").stdout)
    assert written["written"] is True
    assert json.loads((model / "mogu_config.json").read_text())["dial"] == written["chosen"]["dial"]
    assert f"dial {written['chosen']['dial']:g}\n" in (model / "README.md").read_text()
