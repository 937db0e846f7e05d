"""`mogu calibrate` as a user meets it, on a tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

Mogu = Callable[..., tuple[int, str, str]]


def test_calibrate_prints_what_it_gains_and_writes_on_request(
    run_mogu_offline: Mogu, saved_model: Path, dev_records: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(saved_model, model)
    before = (model / "mogu_config.json").read_text()
    options = ["calibrate", str(model), "--dev", str(dev_records), "--max-benign-refusal", "1", "--max-new-tokens", "2"]
    code, shown, err = run_mogu_offline(*options)
    assert code == 0, err
    assert "points of malicious requests refused" in shown
    assert "n 3" in shown
    assert (model / "mogu_config.json").read_text() == before
    _, out, _ = run_mogu_offline(*options, "--write", "--json")
    written = json.loads(out)
    assert written["written"] is True
    assert json.loads((model / "mogu_config.json").read_text())["dial"] == written["chosen"]["dial"]
    assert f"dial {written['chosen']['dial']:g}\n" in (model / "README.md").read_text()
