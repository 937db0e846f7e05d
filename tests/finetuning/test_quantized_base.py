"""LoRA tuning of a base model in 4 or 8 bits, against that of the plain model with the weights it computes with; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mogu import MoguConfig, MoguModel
from mogu.errors import ConfigError
from mogu.finetuning import FinetuneRecipe, finetune, finetune_recipe_from, plan_tuning
from mogu.hub import load_base
from tests.conftest import randomize
from tests.quantized import BITS, needs_bitsandbytes, plain_twin, weights

needs_bitsandbytes()

IDS = torch.tensor([[3, 9, 17, 33, 5, 60]])


def recipe_of(tree: dict[str, Any], **sections: dict[str, Any]) -> FinetuneRecipe:
    return finetune_recipe_from({name: {**tree.get(name, {}), **sections.get(name, {})} for name in {*tree, *sections}}, source="test")


def losses(recipe: FinetuneRecipe) -> list[float]:
    return [json.loads(line)["loss"] for line in (recipe.run.output / "loss_history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("quantization", BITS)
def test_a_lora_on_a_quantized_base_learns_what_it_learns_on_the_plain_one(
    quantization: Any, tree: dict[str, Any], base_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(tree, model={"quantization": quantization})
    base = load_base(str(base_folder), quantization=quantization)
    before = weights(base)
    report = finetune(recipe, base=base)
    assert all(torch.equal(value, before[name]) for name, value in weights(base).items())
    assert report["recipe"]["model"]["quantization"] == quantization
    plain = plain_twin(base_folder, quantization, tmp_path / "plain")
    twin = recipe_of(tree, model={"base": str(plain)}, run={"output": str(tmp_path / "twin")})
    finetune(twin)
    original = recipe_of(tree, run={"output": str(tmp_path / "original")})
    finetune(original)
    assert losses(recipe) == pytest.approx(losses(twin), rel=1e-4)
    assert losses(recipe) == pytest.approx(losses(original), rel={"4bit": 0.05, "8bit": 0.005}[quantization])
    # PEFT alone puts what was saved onto a quantized base, and onto the plain one.
    names = load_file(recipe.run.output / "adapter_model.safetensors")
    assert all(".lora_" in name for name in names)
    for folder, bits, other in ((base_folder, quantization, recipe), (plain, None, twin)):
        tuned: Any = PeftModel.from_pretrained(load_base(str(folder), quantization=bits), str(other.run.output)).train()
        again: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(plain), str(twin.run.output)).train()
        with torch.no_grad():
            torch.testing.assert_close(tuned(input_ids=IDS).logits, again(input_ids=IDS).logits, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("quantization", BITS)
def test_a_hardened_model_on_a_quantized_base_is_saved_on_a_plain_tuned_one(
    quantization: Any, tree: dict[str, Any], base_folder: Path, tmp_path: Path
) -> None:
    hardened = MoguModel.from_base(load_base(str(base_folder), quantization=quantization), MoguConfig(rank=2, base_model=str(base_folder)))
    randomize(hardened)
    hardened.save_pretrained(tmp_path / "hardened")
    recipe = recipe_of(tree, model={"base": str(tmp_path / "hardened"), "quantization": quantization}, tune={"epochs": 1})
    finetune(recipe)
    config = json.loads((recipe.run.output / "mogu_config.json").read_text())
    assert config["base_quantization"] is None
    saved = AutoModelForCausalLM.from_pretrained(recipe.run.output / "base")
    plain = AutoModelForCausalLM.from_pretrained(plain_twin(base_folder, quantization, tmp_path / "plain"))
    (file,) = recipe.run.work_folder.glob("*/tuned.safetensors")
    lora = load_file(file)
    for name, module in plain.named_modules():
        key = f"base_model.model.{name}.lora_A.default.weight"
        if key in lora:
            update = 2 * lora[key.replace("lora_A", "lora_B")] @ lora[key]
            torch.testing.assert_close(saved.get_submodule(name).weight, module.weight + update, atol=1e-6, rtol=1e-5)
    again = MoguModel.from_pretrained(recipe.run.output)
    for name, layer in zip(again.routed_module_names, again.routed_layers, strict=True):
        assert torch.equal(layer.base_layer.weight, saved.get_submodule(name).weight)


@pytest.mark.parametrize("begin", [finetune, plan_tuning])
@pytest.mark.parametrize(
    ("sections", "match"),
    [
        ({"tune": {"method": "full"}}, r'in 4 bits, with tune\.method = "full"'),
        ({"safety": {"method": "safe-lora", "unaligned": "elsewhere"}}, "safe-lora.*compares weights"),
        ({"safety": {"method": "safe-merge", "unaligned": "elsewhere"}}, "safe-merge.*compares weights"),
        ({"safety": {"method": "ml-lr"}}, "ml-lr.*adds noise to weights"),
        ({"safety": {"method": "swat"}}, "swat.*adds noise to weights"),
    ],
)
@pytest.mark.parametrize("saved", [False, True])
def test_what_needs_the_weights_themselves_is_refused_before_anything_is_written(
    begin: Callable[[FinetuneRecipe], object],
    sections: dict[str, dict[str, Any]],
    match: str,
    saved: bool,
    tree: dict[str, Any],
    base_folder: Path,
    record_files: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    base = base_folder
    if saved:
        base = tmp_path / "base"
        load_base(str(base_folder), quantization="4bit").save_pretrained(base)
        AutoTokenizer.from_pretrained(base_folder).save_pretrained(base)
    safety = {"pairs": str(record_files[0]), **sections.get("safety", {})} if "safety" in sections else {}
    recipe = recipe_of(
        tree,
        model={"base": str(base), "quantization": None if saved else "4bit"},
        tune=sections.get("tune", {}),
        safety=safety,
        run={"output": str(tmp_path / "run" / "out")},
    )
    (tmp_path / "run").mkdir()
    with pytest.raises(ConfigError, match=match):
        begin(recipe)
    assert not list((tmp_path / "run").iterdir())


def test_robust_modules_of_a_file_do_for_a_quantized_base(tree: dict[str, Any], record_files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "robustness.json").write_text(json.dumps({"subset": {"modules": ["model.layers.0.self_attn.q_proj"]}}))
    safety = {"method": "ml-lr", "slow_factors": [0.0], "pairs": str(record_files[0]), "robust_modules": str(tmp_path / "robustness.json")}
    recipe = recipe_of(tree, model={"quantization": "4bit"}, safety=safety, tune={"epochs": 1})
    finetune(recipe)
    moved = {name for name, value in load_file(recipe.run.output / "adapter_model.safetensors").items() if "lora_B" in name and value.any()}
    assert moved == {"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"}


@pytest.mark.parametrize("quantization", BITS)
def test_the_plan_counts_the_weights_as_they_are_loaded(quantization: str, tree: dict[str, Any]) -> None:
    plain, quantized = plan_tuning(recipe_of(tree)), plan_tuning(recipe_of(tree, model={"quantization": quantization}))
    # 14 matrices of two layers: q, k, v, o of 32 × 32, three of 32 × 64; each is plain while it computes.
    numbers = 2 * (4 * 32 * 32 + 3 * 32 * 64)
    saved = numbers * (4 - (0.5 + 1 / 64 if quantization == "4bit" else 1)) - 4 * 32 * 64
    scales = 14 * (4 + 1024 + 64 + 4) if quantization == "4bit" else 4 * 2 * (4 * 32 + 2 * 64 + 32)
    # LLM.int8 keeps what enters its layers; so does a LoRA without dropout beside each of them, and it is there once.
    assert quantized.memory_bytes == pytest.approx(plain.memory_bytes - saved + scales, abs=64)
    assert (plain.trained_parameters, plain.base_parameters) == (quantized.trained_parameters, quantized.base_parameters)
