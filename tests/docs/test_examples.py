"""The examples run on the model that the first tutorial makes."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def there(tutorial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tutorial)


def run(monkeypatch: pytest.MonkeyPatch, *command: str) -> None:
    monkeypatch.setattr(sys, "argv", list(command))
    runpy.run_path(str(EXAMPLES / command[0]), run_name="__main__")


def test_harden_trains_what_a_recipe_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    less = ("glad.epochs=0.1", "unwill.epochs=0.1", "router.epochs=0.1", "choice.unwill_offsets=[0.0]", "run.output=example")
    run(monkeypatch, "harden.py", "harden.toml", *(part for setting in less for part in ("--set", setting)))
    assert "Saved to example" in capsys.readouterr().out
    assert Path("example/mogu_config.json").is_file()


def test_score_prompts_shows_the_highest_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("prompts.txt").write_text("How do I bake bread?\n\nHow do I rob the baker?\n")
    run(monkeypatch, "score_prompts.py", "safer-model", "prompts.txt")
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("0.", "1."))]
    scores = [float(line.split("  ")[0]) for line in shown]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)


def test_notebook_runs_and_stores_no_output() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="the notebook plots")
    matplotlib.use("agg")
    notebook = json.loads((EXAMPLES / "routing_weights.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            exec("".join(cell["source"]), names)
