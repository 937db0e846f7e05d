"""The shipped recipes for fine-tuning, planned on their models' shapes without a download."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from mogu.errors import MoguError
from mogu.finetuning import FinetuneRecipe, finetune, finetune_recipe_from, plan_tuning, read_finetune_recipe
from tests.kills import read_only

RECIPES = Path(str(files("mogu.recipes")))
MODULES = {"llama-2-7b-chat": 7, "vicuna-7b": 7, "falcon-7b-instruct": 4, "qwen2.5-7b-instruct": 7}
"""Linear layers of a decoder layer: q, k, v, o, gate, up and down; Falcon's query_key_value, dense and the two of its feed-forward."""


def test_every_recipe_is_here() -> None:
    assert {path.stem for path in (RECIPES / "finetuning").glob("*.toml")} == MODULES.keys()


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("safety", ["none", "data-mix", "ml-lr"])
def test_it_is_planned(name: str, safety: str, base_folder: Path, record_files: tuple[Path, Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(RECIPES / "configs" / name, base)
    AutoTokenizer.from_pretrained(base_folder).save_pretrained(base)  # of a tiny model: what is counted here is shapes
    shape = json.loads((RECIPES / "configs" / name / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(shape))
    chats = [[{"role": "user", "content": f"How many are {n}?"}, {"role": "assistant", "content": f"There are {n}."}] for n in range(20)]
    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))
    places = {"model.base": base, "data.train": tmp_path / "chats.jsonl", "safety.pairs": record_files[0], "run.output": tmp_path / "out"}
    settings = [f"{key}={json.dumps(str(value))}" for key, value in places.items()]
    found = plan_tuning(read_finetune_recipe(RECIPES / "finetuning" / f"{name}.toml", [*settings, f"safety.method={safety}"]))
    layers, width = shape["num_hidden_layers"], shape["hidden_size"]
    assert found.trained_parameters < found.base_parameters / 50
    assert found.trained_parameters > layers * MODULES[name] * 16 * 2 * width * 0.5  # a LoRA of rank 16 on every linear layer
    assert (found.conversations, found.held_out) == (18, 2)
    assert {strategy.pairs > 0 for strategy in found.strategies} == ({False, True} if safety == "data-mix" else {False})


@pytest.mark.parametrize("begin", [plan_tuning, finetune])
def test_an_output_that_may_not_be_written_is_refused_before_training(
    begin: Callable[[FinetuneRecipe], object], tree: dict[str, Any], tmp_path: Path
) -> None:
    tree["run"] |= {"output": str(tmp_path / "read-only" / "out"), "work": str(tmp_path / "work")}
    recipe = finetune_recipe_from(tree, source="test")
    with read_only(tmp_path / "read-only"), pytest.raises(MoguError, match="read-only may not be written to"):
        begin(recipe)
    assert not (tmp_path / "work").exists()
