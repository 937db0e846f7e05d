"""A base model in 4 or 8 bits through every stage of every method, against the plain model with the weights that it computes with."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mogu import MoguError, MoguModel
from mogu.inference.prompts import encode_prompt
from mogu.training import Recipe, harden, recipe_from
from mogu.training.pipeline import load_recipe_base
from tests.quantized import BITS, needs_bitsandbytes, plain_twin, weights

needs_bitsandbytes()

ASKED = ["How do I clean the kettle?", "How do I secretly take my neighbor's garden?"]
METHODS: dict[str, dict[str, Any]] = {
    "v1": {"router": {"epochs": 2, "learning_rate": 1e-3}, "glad": {"epochs": 2, "learning_rate": 1e-3}},
    "v2": {"router": {"epochs": 2, "learning_rate": 1e-3}, "probe": {"top": [2], "folds": 2}},
    "gated": {"gate": {"false_alarms": [0.2], "second_opinions": 0.5, "listen": 0.2}, "careful": {"epochs": 2, "rank": 2}},
}
WITHIN = {"4bit": 0.02, "8bit": 0.002}
"""How far the loss of a step may be from that on the base model that was quantized, as a share of it."""

Make = Callable[..., Recipe]


@pytest.fixture
def make(base_folder: Path, record_files: tuple[Path, Path]) -> Make:
    def make(output: Path, method: str = "v1", base: Path = base_folder, quantization: str | None = None) -> Recipe:
        sections: dict[str, Any] = {
            "method": method,
            "model": {"base": str(base), "quantization": quantization},
            "data": {"train": str(record_files[0]), "dev": str(record_files[1])},
            "mogu": {"router_hidden": 16} if method != "gated" else {},
            "unwill": {"epochs": 2, "learning_rate": 1e-3},
            "choice": {"max_new_tokens": 4, "checkpoints": [1.0], "weight_penalties": [2.0]},
            "run": {"output": str(output), "max_length": 200},
        }
        return recipe_from(sections | METHODS[method], source="test")

    return make


def losses(recipe: Recipe) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for file in recipe.run.work_folder.rglob("loss_history.jsonl"):
        for row in map(json.loads, file.read_text().splitlines()):
            found.setdefault(row["stage"], []).append(row["loss"])
    return found


def trained(recipe: Recipe) -> dict[str, list[float]]:
    """The losses of a run; of a gated model, whose choice takes time, of the stages that have some."""
    for stage in ("unwill", "careful") if recipe.method == "gated" else (None,):
        harden(recipe, stage=stage)
    return losses(recipe)


def replies(model: MoguModel) -> list[list[int]]:
    prompts = [torch.tensor([encode_prompt(model.tokenizer, [{"role": "user", "content": text}])]) for text in ASKED]
    return [model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0].tolist() for ids in prompts]


@pytest.mark.parametrize("quantization", BITS)
@pytest.mark.parametrize("method", METHODS)
def test_a_quantized_base_goes_through_every_stage(
    method: str,
    quantization: Any,
    make: Make,
    base_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mogu.training.gated.pipeline._ANSWER_TOKENS", 4)
    recipe = make(tmp_path / "out", method, quantization=quantization)
    base = load_recipe_base(recipe.model)
    before = weights(base)
    model = harden(recipe, base=base)
    assert model is not None

    # The base model's weights, packed as they are, and their scales are what they were.
    plain = weights(model.plain_base_model())
    assert plain.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in plain.items())

    # Training on the plain model with the weights that bitsandbytes says are meant is the same training.
    twin = trained(make(tmp_path / "twin", method, plain_twin(base_folder, quantization, tmp_path / "plain")))
    found, original = losses(recipe), trained(make(tmp_path / "original", method))
    assert found.keys() == twin.keys() == original.keys()
    for stage, of_stage in found.items():
        assert of_stage == pytest.approx(twin[stage], rel=1e-4)
        assert of_stage == pytest.approx(original[stage], rel=WITHIN[quantization])
        assert of_stage != original[stage]

    # What is saved has none of the base model's weights, and says what they were.
    config = json.loads((tmp_path / "out" / "mogu_config.json").read_text())
    assert (config["base_quantization"], config["base_model"]) == (quantization, str(base_folder))
    report = json.loads((tmp_path / "out" / "training_report.json").read_text())
    assert report["recipe"]["model"]["quantization"] == quantization
    names = {name for file in (tmp_path / "out").rglob("*.safetensors") if file.stem != "base_identity" for name in load_file(file)}
    assert names
    assert all(part in name for name in names for part in [next(p for p in ("lora_", "layers.", "gate.", "stream.") if p in name)])
    assert f'quantization="{quantization}"' in (tmp_path / "out" / "README.md").read_text()

    # Loaded again, it is the model in memory; on the base model that was quantized it is another, and says so.
    loaded = MoguModel.from_pretrained(tmp_path / "out", quantization=quantization)
    loaded.eval()
    assert replies(loaded) == replies(model)
    assert torch.equal(loaded.score(ASKED), model.score(ASKED))
    with caplog.at_level(logging.WARNING):
        other = MoguModel.from_pretrained(tmp_path / "out")
    words = {"4bit": "4 bits", "8bit": "8 bits"}[quantization]
    assert f"trained on its base with {words}, and stands on one with no quantization" in caplog.text
    other.save_pretrained(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "mogu_config.json").read_text())["base_quantization"] == quantization


def test_a_run_on_another_quantization_is_another_run(make: Make, tmp_path: Path) -> None:
    harden(make(tmp_path / "out", quantization="8bit"), stage="unwill")
    with pytest.raises(MoguError, match="unwill"):
        harden(make(tmp_path / "out", quantization="4bit"), stage="unwill")


def test_a_setting_that_is_no_quantization_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(MoguError, match=r"quantization.*4bit"):
        make(tmp_path / "out", quantization="3bit")
