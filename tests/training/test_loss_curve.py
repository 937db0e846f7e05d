"""The loss curve beside a finished model: the numbers always, the picture where it can be drawn."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from mogu.training.loss_curve import LossCurve

ROWS = [
    {"stage": stage, "step": step, "epoch": step / 2, "loss": 2.0 / step, "learning_rate": 1e-3}
    for stage in ("glad responder", "unwill responder", "router (glad 1, unwill 1, λ 1)", "router (glad 1, unwill 1, λ 2)")
    for step in range(1, 41)
]


def test_the_curve_is_written_as_numbers_and_as_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import matplotlib.image

    curve = LossCurve(ROWS)
    assert curve.files() == {"loss_history": "loss_history.jsonl", "loss_plot": "loss.png"}
    curve.save(tmp_path)
    assert [json.loads(line) for line in (tmp_path / "loss_history.jsonl").read_text(encoding="utf-8").splitlines()] == ROWS
    height, width, _ = matplotlib.image.imread(tmp_path / "loss.png").shape
    assert width > 3 * height  # a panel for each of the three stages


def test_without_matplotlib_there_is_a_note_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("mogu.training.loss_curve.find_spec", lambda name: None if name == "matplotlib" else find(name))
    curve = LossCurve(ROWS)
    assert curve.files() == {"loss_history": "loss_history.jsonl", "loss_plot": None}
    with caplog.at_level("INFO", "mogu"):
        curve.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["loss_history.jsonl"]
    assert 'pip install "mogu[eval]"' in caplog.text


def test_a_run_that_an_earlier_release_trained_has_no_curve(tmp_path: Path) -> None:
    curve = LossCurve.of([tmp_path / "glad" / "loss_history.jsonl"])
    assert curve.files() == {"loss_history": None, "loss_plot": None}
    curve.save(tmp_path)
    assert not list(tmp_path.iterdir())
