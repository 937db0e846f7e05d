"""`mogu sweep` as a user meets it, on a tiny model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_recipe import write_tiny_recipe

Mogu = Callable[..., tuple[int, str, str]]


def test_sweep_prints_a_row_for_each_combination_and_goes_on(run_mogu_offline: Mogu, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["sweep", write_tiny_recipe(tmp_path), "--vary", "router.epochs=1,2", "--out", out]
    code, told, err = run_mogu_offline(*options)
    assert code == 0, err
    assert "Training with router.epochs=2, seed 0" in err
    assert "Highest balanced accuracy: router.epochs=" in told
    assert f"Numbers: {out / 'sweep.csv'}" in told
    code, told, err = run_mogu_offline(*options, "--json")
    assert code == 0, err
    assert "Training" not in err
    assert json.loads(told) == json.loads((out / "sweep.json").read_text())


def test_sweep_explains_bad_input(run_mogu_offline: Mogu, tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path)
    for options, found in ((["--vary", "router.epochs"], "--vary got 'router.epochs'"), (["--vary", "router.epoch=1"], "router.epoch")):
        code, _, err = run_mogu_offline("sweep", recipe, *options, "--out", tmp_path / "out")
        assert code == 2
        assert found in err
    assert not (tmp_path / "out").exists()


def test_workers_without_ray_are_an_error_that_says_what_to_install(
    run_mogu_offline: Mogu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    code, _, err = run_mogu_offline("sweep", write_tiny_recipe(tmp_path), "--out", tmp_path / "out", "--workers", "2")
    assert code == 2
    assert "pip install 'mogu[ray]'" in err
