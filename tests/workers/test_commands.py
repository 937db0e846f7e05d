"""What two workers make of a comparison, an attack and a sweep is what one process makes, bit for bit, and nothing is made twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mogu.attacks import AttackSettings, attack_models
from mogu.evaluation.compare import Comparison, compare
from mogu.lab import build_base
from mogu.training.sweep import Sweep, sweep
from mogu.workers import Workers
from tests.lab_models import save_random_model
from tests.tiny_recipe import write_tiny_recipe

pytestmark = pytest.mark.usefixtures("ray")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_recipe(tmp_path_factory.mktemp("tiny"))


def written(folder: Path) -> dict[str, int]:
    """When each model, part of a baseline and cell was written."""
    found = [*folder.glob("cells/**/*.json"), *folder.glob("models/**/*.safetensors"), *folder.glob("baselines/*/*.json")]
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in found}


def cells(folder: Path) -> dict[str, Any]:
    """What the cells say, without how long they took, and without how replies shared passes, which is a matter of time as well.

    A fingerprint is of the trained model's report as well, which says how long that took.
    """
    read = {str(file.relative_to(folder)): json.loads(file.read_text()) for file in folder.glob("cells/**/*.json")}
    of_time = ("seconds", "fingerprint", "sha256", "passes", "tokens_read")

    def without(content: Any) -> Any:
        if isinstance(content, list):
            return [without(part) for part in content]
        return {key: without(value) for key, value in content.items() if key not in of_time} if isinstance(content, dict) else content

    return {name: without(cell) for name, cell in read.items()}


def test_a_comparison_by_workers_is_that_of_one_process(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    alone = Comparison(
        (str(recipe),),
        tmp_path / "alone",
        ("starter",),
        ("none", "detect_inp", "retokenization", "mogu"),
        limit=2,
        seeds=2,
        shifts=(1.0,),
        max_new_tokens=4,
        cost_prompts=1,
        cost_rounds=1,
        settings=("data.train=starter", "data.dev=starter", "data.limit=4", "data.max_new_tokens=4", "run.max_length=512"),
    )
    shared = replace(alone, out=tmp_path / "shared")
    first, second = compare(alone), compare(shared, Workers(2))
    assert [row.as_row() for row in second.numbers if row.section != "cost"] == [
        row.as_row() for row in first.numbers if row.section != "cost"
    ]
    assert cells(shared.out) == cells(alone.out)
    before = written(shared.out)
    assert before.keys() == written(alone.out).keys()
    assert {path for path in before if path.startswith("baselines")} == {f"baselines/seed-{seed}/detector.json" for seed in (0, 1)}
    for name in before:
        if name.endswith(".safetensors"):
            assert (shared.out / name).read_bytes() == (alone.out / name).read_bytes()
    # The same command goes on without workers: what is there stays, and what is missing is made.
    lost = "cells/starter/seed-1/retokenization.json"
    (shared.out / lost).unlink()
    compare(shared)
    assert {name for name, time in written(shared.out).items() if before[name] != time} == {lost}
    assert cells(shared.out) == cells(alone.out)


def register_lab() -> None:
    import mogu.lab  # noqa: F401


def test_an_attack_by_workers_is_that_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    register_lab()
    model = save_random_model(tmp_path / "model", build_base(progress=False), strength=0.1)
    comparison = Comparison((str(model),), tmp_path / "alone", ("lab",), ("none", "mogu"), limit=2, shifts=(), max_new_tokens=8)
    attacks = ("plain", "wrappers", "gcg", "gcg_aware", "glad_alone")
    alone = AttackSettings(comparison, attacks, queries=2, flops=2e9)
    shared = replace(alone, comparison=replace(comparison, out=tmp_path / "shared"))
    first, second = attack_models(alone), attack_models(shared, Workers(2, setup=register_lab))
    assert second["numbers"] == first["numbers"]
    assert cells(tmp_path / "shared") == cells(tmp_path / "alone")


def test_a_sweep_by_workers_is_that_of_one_process(recipe: Path, tmp_path: Path) -> None:
    alone = Sweep(recipe, tmp_path / "alone", vary=("unwill.epochs=1,2",), seeds=1)
    shared = replace(alone, out=tmp_path / "shared")
    first, second = sweep(alone), sweep(shared, Workers(2))
    assert second["points"] == first["points"]
    assert len(first["points"]) == 2
    models = [file.relative_to(alone.out) for file in alone.out.glob("models/**/*.safetensors")]
    assert models
    assert all((shared.out / file).read_bytes() == (alone.out / file).read_bytes() for file in models)
    before = written(shared.out)
    sweep(shared, Workers(2))
    assert written(shared.out) == before
