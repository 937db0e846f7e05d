"""Safe LoRA and SafeMERGE: the weights they leave, against NumPy with the whole matrix C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from mogu.errors import ConfigError, ModelFileError
from mogu.finetuning import finetune, finetune_recipe_from, plan_tuning
from mogu.finetuning.alignment import Alignment, repair
from mogu.finetuning.recipe import TuneSection
from mogu.finetuning.tuner import Tuner

pytestmark = pytest.mark.core

MODULE = "model.layers.{}.self_attn.q_proj"
Matrix = NDArray[np.float64]


def array(tensor: torch.Tensor) -> Matrix:
    return tensor.detach().double().numpy()


def projected(aligned: Matrix, unaligned: Matrix, update: Matrix) -> tuple[Matrix, float]:
    """``C ΔW`` and its cosine with ``ΔW``, the matrices written out as the paper does."""
    v = aligned - unaligned
    moved = (v @ v.T / np.linalg.norm(v)) @ update
    return moved, float(np.vdot(moved, update) / np.linalg.norm(moved) / np.linalg.norm(update))


@pytest.fixture(scope="session")
def unaligned(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with other weights everywhere but in one module, in which alignment changed nothing."""
    folder = tmp_path_factory.mktemp("unaligned")
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(MODULE.format(1)):
                rank = 1 if "layers.0" in name else min(parameter.shape)  # in layer 0 along one direction only
                left, right = torch.randn(parameter.shape[0], rank), torch.randn(rank, *parameter.shape[1:2])
                parameter += 0.1 * (left @ right).view(parameter.shape) if parameter.dim() == 2 else 0.1
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("how", ["safe-lora", "safe-merge"])
def test_what_was_learned_is_repaired_where_it_leaves_the_alignment(
    how: str, method: str, tree: dict[str, Any], base_folder: Path, unaligned: Path, record_files: tuple[Path, Path]
) -> None:
    threshold = 0.4
    tree["tune"] |= {"method": method, "epochs": 2, "learning_rate": 1e-2 if method == "lora" else 1e-3}
    tree["safety"] |= {"method": how, "pairs": str(record_files[0]), "pairs_dev": str(record_files[1])}
    tree["safety"] |= {"unaligned": str(unaligned), "thresholds": [threshold], "merge_weight": 0.25}
    recipe = finetune_recipe_from(tree, source="test")
    report = finetune(recipe)
    name = f"{how}, threshold {threshold}"
    assert [row["name"] for row in report["tried"]] == ["plain", name]
    plain, found = (load_file(recipe.run.work_folder / part / "tuned.safetensors") for part in ("plain", f"{how}-threshold-{threshold}"))
    models = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (base_folder, unaligned)]
    repaired = report["repaired_modules"][name]
    changed = 0
    for weight in [key for key in models[0] if "_proj" in key]:
        aligned, other, module = array(models[0][weight]), array(models[1][weight]), weight.removesuffix(".weight")
        prefix = f"base_model.model.{module}.lora_"
        lora = method == "lora"

        def update(state: dict[str, torch.Tensor], prefix: str = prefix, weight: str = weight, aligned: Matrix = aligned) -> Matrix:
            if method == "full":
                return array(state[weight]) - aligned
            return 2 * array(state[f"{prefix}B.default.weight"]) @ array(state[f"{prefix}A.default.weight"])

        before, after = update(plain), update(found)
        if module == MODULE.format(1):
            assert module not in repaired
            np.testing.assert_array_equal(before, after)
            continue
        moved, similarity = projected(aligned, other, before)
        assert (module in repaired) == (similarity < threshold), (module, similarity)
        if similarity < threshold:
            assert repaired[module] == pytest.approx(similarity, abs=1e-3)
            wanted = moved if how == "safe-lora" else 0.25 * before
            np.testing.assert_allclose(after, wanted, atol=1e-6, rtol=1e-3)
            changed += 1
        else:
            np.testing.assert_array_equal(before, after)
        if lora:
            assert torch.equal(found[f"{prefix}A.default.weight"], plain[f"{prefix}A.default.weight"])
    assert 0 < changed < 13  # some were repaired, some not
    untouched = [key for key in plain if "_proj" not in key]
    assert all(torch.equal(plain[key], found[key]) for key in untouched)
    assert [strategy.steps for strategy in plan_tuning(recipe).strategies] == [2, 0]


def test_weights_kept_the_other_way_around_are_repaired_alike() -> None:
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=8)
    aligned, unaligned = GPT2LMHeadModel(config), GPT2LMHeadModel(config)
    alignment = Alignment.between(aligned, unaligned)
    start = {name: array(tensor) for name, tensor in aligned.state_dict().items()}
    tuner = Tuner(aligned, TuneSection(method="full"), 0)
    with torch.no_grad():
        for parameter in tuner.trained().values():
            parameter += 0.1 * torch.randn_like(parameter)
    weight = "transformer.h.0.attn.c_attn.weight"  # [16, 48], as [d_in, d_out]
    tuned = array(aligned.state_dict()[weight])
    assert weight.removesuffix(".weight") in repair(tuner, alignment, "safe-lora", 1.0, 0.5)
    moved, _ = projected(start[weight].T, array(unaligned.state_dict()[weight]).T, (tuned - start[weight]).T)
    np.testing.assert_allclose(array(aligned.state_dict()[weight]), start[weight] + moved.T, atol=1e-5)


def test_an_unaligned_model_that_cannot_be_one_is_an_error(
    tree: dict[str, Any], base_folder: Path, record_files: tuple[Path, Path], tmp_path: Path
) -> None:
    tree["safety"] |= {"method": "safe-lora", "pairs": str(record_files[0]), "pairs_dev": str(record_files[1])}
    with pytest.raises(ConfigError, match="needs unaligned"):
        finetune_recipe_from(tree, source="test")
    tree["safety"]["unaligned"] = str(base_folder)
    with pytest.raises(ModelFileError, match="has the weights of the model that is tuned"):
        finetune(finetune_recipe_from(tree, source="test"))
    config = AutoModelForCausalLM.from_pretrained(base_folder).config
    config.num_hidden_layers = 1
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "smaller")
    tree["safety"]["unaligned"] = str(tmp_path / "smaller")
    with pytest.raises(ModelFileError, match="has 7 linear modules, the model that is tuned has 14"):
        finetune(finetune_recipe_from(tree, source="test"), restart=True)
    assert not Path(tree["run"]["output"]).exists()
