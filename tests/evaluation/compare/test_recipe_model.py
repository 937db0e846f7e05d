"""A recipe among the models of a comparison: carried out for every seed, on the same records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mogu.data import Record, write_records
from mogu.evaluation.compare import Comparison, compare
from mogu.evaluation.compare.lineup import Lineup
from mogu.evaluation.compare.recipe_model import names_recipe
from mogu.modeling.adapter_files import read_adapter
from tests.training.conftest import save_chat_model


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    save_chat_model(tmp_path / "base")
    texts = {"affirm": "Sure, here it is.", "reject": "I cannot help with that."}
    records = [
        Record(id=f"{label}{number}", label=label, instruction=f"{verb} {number}?", **texts)
        for label, verb in (("benign", "Add"), ("malicious", "Steal"))
        for number in range(6)
    ]
    write_records(tmp_path / "pairs.jsonl", records)
    file = tmp_path / "tiny.toml"
    file.write_text(
        f"""
[model]
base = {json.dumps(str(tmp_path / "base"))}
[data]
train = {json.dumps(str(tmp_path / "pairs.jsonl"))}
[mogu]
router_hidden = 16
[glad]
epochs = 1
[unwill]
epochs = 1
[router]
epochs = 1
[choice]
checkpoints = [1.0]
weight_penalties = [2.0]
max_new_tokens = 2
[run]
output = "replaced"
max_length = 128
"""
    )
    return file


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
