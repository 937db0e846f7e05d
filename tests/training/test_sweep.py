"""A sweep trains every combination once, goes on where it was stopped, and tables means and deviations that are worked out by hand."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mogu.errors import ConfigError, MoguError
from mogu.training import sweep_table
from mogu.training.sweep import Point, Sweep, sweep, varied
from tests.tiny_recipe import write_tiny_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("unwill.epochs=3,5", ("unwill.epochs=3", "unwill.epochs=5")),
        ("unwill.learning_rate = 1e-4, 3e-4", ("unwill.learning_rate=0.0001", "unwill.learning_rate=0.0003")),
        ("choice.dials=[0.0],[-0.5, 0.5]", ("choice.dials=[0.0]", "choice.dials=[-0.5, 0.5]")),
        ("router.penalty=l1,l2", ('router.penalty="l1"', 'router.penalty="l2"')),
        ("run.gradient_checkpointing=true,false", ("run.gradient_checkpointing=true", "run.gradient_checkpointing=false")),
    ],
)
def test_values_are_those_of_a_recipe(text: str, settings: tuple[str, ...]) -> None:
    assert varied(text) == settings


@pytest.mark.parametrize("text", ["unwill.epochs", "unwill.epochs=", "unwill.epochs=3,3"])
def test_what_is_no_list_of_values_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--vary got"):
        varied(text)


def test_every_combination_is_a_point_with_a_folder_of_its_own(recipe: Path, tmp_path: Path) -> None:
    both = Sweep(recipe, tmp_path, vary=("unwill.epochs=1,2", "mogu.rank=2,4"))
    assert both.combinations() == [(f"unwill.epochs={epochs}", f"mogu.rank={rank}") for epochs in (1, 2) for rank in (2, 4)]
    made = [both.recipe_of(Point(combination, seed)) for combination in both.combinations() for seed in (0, 1)]
    assert [(one.unwill.epochs, one.mogu.rank, one.run.seed) for one in made] == [
        (epochs, rank, seed) for epochs in (1, 2) for rank in (2, 4) for seed in (0, 1)
    ]
    assert len({one.run.output for one in made} | {one.run.work_folder for one in made}) == 16
    odd = [Point((f"data.train={path!r}",), 0).folder for path in ("a/b.jsonl", "a_b.jsonl", "a/" * 100)]
    assert len(set(odd)) == 3
    assert not any("/" in name for name in odd)
    assert max(map(len, odd)) < 120


def test_a_setting_that_is_wrong_is_refused_before_anything_is_trained(recipe: Path, tmp_path: Path) -> None:
    for vary, complaint in ((("unwill.epochs=1,-1",), "epochs"), (("unwill.epoch=1,2",), "epoch"), (("run.seed=1", "run.seed=2"), "twice")):
        with pytest.raises(ConfigError, match=complaint):
            sweep(Sweep(recipe, tmp_path / "out", vary))
    with pytest.raises(ConfigError, match="--seeds is 0"):
        sweep(Sweep(recipe, tmp_path / "out", seeds=0))
    assert not (tmp_path / "out").exists()
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(MoguError, match="was not written by mogu"):
        sweep(Sweep(recipe, tmp_path))


def test_a_sweep_trains_what_is_missing_and_nothing_else(recipe: Path, tmp_path: Path) -> None:
    first = Sweep(recipe, tmp_path / "out", ("unwill.epochs=1,2",))
    results = sweep(first)
    assert [row["settings"] for row in results["points"]] == [["unwill.epochs=1"], ["unwill.epochs=2"]]
    reports = {
        epochs: json.loads((first.out / "models" / f"unwill.epochs={epochs}" / "seed-0" / "training_report.json").read_text())
        for epochs in (1, 2)
    }
    for (epochs, report), row in zip(reports.items(), results["points"], strict=True):
        assert report["recipe"]["unwill"]["epochs"] == epochs
        assert row["malicious_refused"] == {"mean": report["chosen"]["malicious_refused"], "deviation": None}
        assert row["base"]["benign_answered"] == report["base_on_dev"]["benign_answered"]
    assert not (first.out / "training").exists()
    before = cells(first.out)
    more = replace(first, vary=("unwill.epochs=1,2,3",), seeds=2)
    assert [row["seeds"] for row in sweep(more)["points"]] == [2, 2, 2]
    after = cells(first.out)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before
    # Other settings are another training, in the same place.
    sweep(replace(first, vary=("unwill.epochs=1",), settings=("glad.epochs=2",)))
    changed = {name for name, time in cells(first.out).items() if after[name] != time}
    assert changed == {"unwill.epochs=1/seed-0.json"}


def cells(out: Path) -> dict[str, int]:
    return {str(file.relative_to(out / "cells")): file.stat().st_mtime_ns for file in (out / "cells").rglob("*.json")}


def test_a_row_has_means_and_deviations_over_seeds(tmp_path: Path) -> None:
    def cell(refused: float, answered: float) -> dict[str, Any]:
        base = {"malicious_refused": 0.1, "benign_answered": 0.9, "malicious": 10, "benign": 10}
        chosen = {"malicious_refused": refused, "benign_answered": answered, "balanced_accuracy": (refused + answered) / 2}
        return {"chosen": chosen, "base_on_dev": base}

    low = sweep_table.row(["a.b=1"], [cell(0.5, 0.9), cell(0.7, 0.9)])
    high = sweep_table.row(["a.b=2"], [cell(0.8, 0.8), cell(0.8, 1.0)])
    assert low["malicious_refused"] == {"mean": pytest.approx(0.6), "deviation": pytest.approx(0.02**0.5)}
    assert low["balanced_accuracy"]["mean"] == pytest.approx(0.75)
    assert low["base"] == {"malicious_refused": 0.1, "benign_answered": 0.9, "balanced_accuracy": 0.5}
    assert "borderline_answered" not in low
    assert sweep_table.best([low, high]) == high
    sweep_table.write({"points": [low, high]}, tmp_path)
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["a.b"], row["seeds"]) for row in rows] == [("1", "2"), ("2", "2")]
    assert float(rows[1]["malicious_refused"]) == pytest.approx(0.8)
    assert float(rows[1]["malicious_refused_base"]) == 0.1
