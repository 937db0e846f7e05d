"""A recipe among the models of a comparison: carried out for every seed, on the same records."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mogu.analysis.minilm import MiniLM
from mogu.evaluation.compare import Comparison, compare
from mogu.evaluation.compare.lineup import Lineup
from mogu.evaluation.compare.recipe_model import names_recipe
from mogu.hub import load_base
from mogu.modeling.adapter_files import read_adapter
from mogu.training.inputs import recipe_tokenizer
from tests.tiny_recipe import write_tiny_recipe
from tests.training.conftest import save_chat_model


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_tiny_recipe(tmp_path)


def test_a_name_is_a_recipe_if_it_ships_or_is_a_toml_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names_recipe("smollm2")
    assert names_recipe("my-recipe.toml")
    assert not names_recipe("finetuning/vicuna-7b")
    assert not names_recipe("somebody/safer-model")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2").mkdir()
    assert not names_recipe("smollm2")


def test_one_recipe_is_the_row_of_mogu_and_several_have_their_own_names(recipe: Path, tmp_path: Path) -> None:
    one = Comparison((str(recipe),), tmp_path / "out", ("starter",), ("none", "mogu"))
    assert Lineup(one).names() == ["none", "mogu"]
    two = Comparison((str(recipe), "vicuna-7b"), tmp_path / "out", ("starter",), ("none", "mogu"))
    assert Lineup(two).names() == ["none", "tiny", "vicuna-7b"]
    methods = Comparison(("vicuna-7b", "v1/vicuna-7b", "v2/vicuna-7b"), tmp_path / "out", ("starter",), ("none", "mogu"))
    assert Lineup(methods).names() == ["none", "vicuna-7b", "v1-vicuna-7b", "v2-vicuna-7b"]
    assert len({model.folder(0) for model in Lineup(methods).models}) == 3


def test_recipes_of_other_settings_keep_their_answers_to_the_starter_set_apart(tmp_path: Path) -> None:
    save_chat_model(tmp_path / "base", seed=1)
    for name, tokens in (("short", 4), ("long", 8)):
        text = f"""
method = "v1"
[model]
base = {json.dumps(str(tmp_path / "base"))}
[data]
train = "starter"
limit = 5
max_new_tokens = {tokens}
[run]
output = "replaced"
max_length = 512
"""
        (tmp_path / f"{name}.toml").write_text(text)
    files = [str(tmp_path / "short.toml"), str(tmp_path / "long.toml")]
    models = Lineup(Comparison(tuple(files), tmp_path / "out", ("starter",), ("none", "mogu"))).models
    base = load_base(str(tmp_path / "base"))
    first = [model.records(model.recipe(0), base, recipe_tokenizer(model.recipe(0))) for model in models]
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "records").rglob("train.jsonl")}
    assert len(kept) == 2
    again = [model.records(model.recipe(1), base, recipe_tokenizer(model.recipe(1))) for model in models]
    assert again == first
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def test_the_detectors_are_trained_on_its_records_and_their_scores_reported(recipe: Path, tmp_path: Path, minilm: MiniLM) -> None:
    pytest.importorskip("inspect_ai")
    quick: dict[str, Any] = {"shifts": (), "max_new_tokens": 2, "cost_prompts": 1, "cost_rounds": 1}
    comparison = Comparison((str(recipe),), tmp_path / "out", ("starter",), ("none", "detect_inp", "minilm"), limit=3, seeds=1, **quick)
    numbers = compare(comparison).numbers
    trained = {path.name for path in (tmp_path / "out" / "baselines" / "seed-0").iterdir()}
    assert trained == {"training", "detector.json", "minilm.json"}
    assert {row.defense for row in numbers if row.section == "detector"} == {"detect_inp", "minilm"}
    held = {row.defense: row.estimate.value for row in numbers if row.measure == "weights_bytes"}
    assert held["minilm"] - held["none"] == 22_928_619  # the ONNX file
    # Where both seeds have the very same detectors, their replies are measured once.
    given = replace(comparison, out=tmp_path / "given", baselines=tmp_path / "out" / "baselines" / "seed-0", seeds=2)
    compare(given)
    assert {path.parent.name for path in (given.out / "cells").rglob("*.json")} == {"seed-0"}


def test_every_seed_trains_a_model_of_its_own(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    comparison = Comparison(
        (str(recipe),),
        tmp_path / "out",
        ("starter",),
        ("none", "mogu"),
        limit=2,
        seeds=2,
        shifts=(),
        max_new_tokens=2,
        cost_prompts=1,
        cost_rounds=1,
        settings=("router.epochs=2",),
    )
    results = compare(comparison)
    assert results.made["defenses"] == ["none", "mogu"]
    folders = [tmp_path / "out" / "models" / f"tiny-seed-{seed}" for seed in (0, 1)]
    reports = [json.loads((folder / "training_report.json").read_text()) for folder in folders]
    assert [report["recipe"]["run"]["seed"] for report in reports] == [0, 1]
    assert all(report["recipe"]["router"]["epochs"] == 2 for report in reports)
    adapters = [read_adapter(folder / "unwill").weights for folder in folders]
    first = next(iter(adapters[0]))
    assert not torch.equal(adapters[0][first][0], adapters[1][first][0])
