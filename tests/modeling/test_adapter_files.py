"""The saved layout: what is written, who else can read it, and that it comes back the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from mogu import MoguConfig, MoguModel
from mogu.modeling.checkpoint import read_config

pytestmark = pytest.mark.core

IDS = torch.tensor([[5, 9, 33, 12, 60, 7], [11, 6, 29, 44, 8, 52]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture
def pair(make_pair):
    return make_pair("llama", torch.float32)


def test_the_layout(pair, tmp_path: Path):
    model, slow = pair
    model.dial = -0.5
    model.save_pretrained(tmp_path / "saved")
    files = {str(file.relative_to(tmp_path / "saved")) for file in (tmp_path / "saved").rglob("*") if file.is_file()}
    adapters = {f"{name}/{file}" for name in ("glad", "unwill") for file in ("adapter_config.json", "adapter_model.safetensors")}
    assert adapters | {"mogu_config.json", "router.safetensors", "README.md"} <= files
    config = json.loads((tmp_path / "saved" / "mogu_config.json").read_text())
    assert config["format_version"] == 5
    assert config["rank"] == 4
    assert config["dial"] == -0.5
    assert config["base_shape"] == {"model_type": "llama", "layers": 3, "width": 32}
    routers = load_file(tmp_path / "saved" / "router.safetensors")
    for index, layer in enumerate(slow.layers):
        assert torch.equal(routers[f"layers.{index}.weight"], torch.stack([layer.numbers.v_unwill, layer.numbers.v_glad]))
        torch.testing.assert_close(routers[f"layers.{index}.bias"].tolist(), [layer.numbers.c_unwill, layer.numbers.c_glad])
    assert not [file for file in tmp_path.iterdir() if file.name != "saved"]  # no scratch left behind


def test_the_same_model_is_the_same_bytes(pair, tmp_path: Path):
    model, _ = pair
    for name in ("one", "two"):
        model.save_pretrained(tmp_path / name)
    named = json.loads((tmp_path / "one" / "glad" / "adapter_config.json").read_text())["target_modules"]
    assert named == list(model.routed_module_names)  # in their order, which no process's hashes decide
    for file in sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.json")):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_comes_back_bit_for_bit(make_pair, make_base, tmp_path: Path, dtype):
    model, _ = make_pair("llama", dtype)
    model.save_pretrained(tmp_path / "saved")
    loaded = MoguModel.from_pretrained(tmp_path / "saved", base_model=make_base("llama", dtype))
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-6 if dtype == torch.float32 else 0, rtol=0)


def test_the_base_model_is_found_by_its_saved_name(pair, make_base, tmp_path: Path):
    make_base("llama", torch.float32).save_pretrained(tmp_path / "base")
    model, _ = pair
    model.mogu_config.base_model = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "saved")
    loaded = MoguModel.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    loaded = MoguModel.from_pretrained(str(tmp_path / "saved"))
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-6, rtol=0)
    (tmp_path / "base").rename(tmp_path / "moved")
    loaded = MoguModel.from_pretrained(tmp_path / "saved", base_model=tmp_path / "moved")
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon", "opt"])
@pytest.mark.parametrize("name", ["glad", "unwill"])
def test_peft_reads_the_responders(make_pair, make_base, tmp_path: Path, family, name):
    """PEFT's own model with the saved adapter is the model with that responder alone."""
    model, _ = make_pair(family, torch.float32)
    model.save_pretrained(tmp_path / "saved")
    peft_model = PeftModel.from_pretrained(make_base(family, torch.float32), tmp_path / "saved" / name).eval()
    with model.routing(name):
        torch.testing.assert_close(logits(model), logits(peft_model), atol=1e-4, rtol=1e-4)


def test_only_some_layers_come_back(make_base, tmp_path: Path):
    model = MoguModel.from_base(make_base("llama"), MoguConfig(layers=[0, 2], rank=4))
    for layer in model.routed_layers:
        layer.set_router(torch.randn(2, 32), torch.randn(2))
    model.save_pretrained(tmp_path / "saved")
    loaded = MoguModel.from_pretrained(tmp_path / "saved", base_model=make_base("llama"))
    assert loaded.routed_layer_indices == [0, 2]
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-5, rtol=1e-5)


def test_saving_again_replaces_what_is_ours(pair, tmp_path: Path):
    model, _ = pair
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "leftover").touch()
    model.dial = 2.0
    model.save_pretrained(tmp_path / "saved", card="# A card of my own\n")
    assert read_config(tmp_path / "saved").dial == 2.0
    assert (tmp_path / "saved" / "README.md").read_text() == "# A card of my own\n"
    assert not (tmp_path / "saved" / "leftover").exists()


def test_the_card_says_what_was_done(pair, tmp_path: Path):
    model, _ = pair
    model.mogu_config.base_model = "somebody/some-model"
    model.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    for part in ("base_model: somebody/some-model", "rank 4, alpha 12", "first 5 tokens", "neither is meant to be used alone"):
        assert part in card
