"""A saved model packed for serving, against the formula of the routed layer in float64."""

from __future__ import annotations

import pytest
import torch

from mogu import MoguConfig
from mogu.errors import ConfigError, ModelFileError
from mogu.modeling.adapter_files import write_gate
from mogu.modeling.config import BackboneConfig
from mogu.serving.packed_adapter import is_mogu_folder, read_packed_adapter
from tests.gated_models import gated_config


@pytest.fixture
def saved(make_pair, tmp_path):
    model, _ = make_pair("llama", config=MoguConfig(rank=4, lora_alpha=12, layers=[0, 2], base_model="some/base"))
    model.save_pretrained(tmp_path / "safer")
    return model, tmp_path / "safer"


def test_packed_layers_give_the_output_of_the_routed_layers(saved):
    model, folder = saved
    adapter = read_packed_adapter(folder)
    assert is_mogu_folder(folder)
    assert not is_mogu_folder(folder.parent)
    assert adapter.rank == 10
    assert list(adapter.layers) == [f"model.layers.{layer}.self_attn.o_proj" for layer in (0, 2)]
    for layer, packed in zip(model.routed_layers, adapter.layers.values(), strict=True):
        x = torch.randn(3, layer.in_features, dtype=torch.float64)
        activations = x @ packed.shrink.double().T
        alpha, beta = torch.sigmoid(activations[:, -2:] + packed.biases.double()).T[..., None]
        low_rank = torch.cat([alpha * activations[:, :4], beta * activations[:, 4:8]], dim=1) @ packed.expand.double().T
        expected = (alpha + beta) * (x @ layer.base_layer.weight.double().T) + low_rank
        assert torch.allclose(layer(x), expected, atol=1e-5)


def test_a_backbone_is_packed_into_both_responders_of_routed_layers(make_pair, tmp_path):
    """On the routed projection it is part of both responders; elsewhere it is a plain LoRA."""
    config = MoguConfig(rank=4, lora_alpha=12, layers=[0, 2], backbone=BackboneConfig(rank=3, lora_alpha=6), base_model="some/base")
    model, slow = make_pair("llama", config=config)
    model.save_pretrained(tmp_path / "v2")
    adapter = read_packed_adapter(tmp_path / "v2")
    assert adapter.rank == 2 * (4 + 3) + 2
    for layer, packed in zip(slow.layers, adapter.layers.values(), strict=True):
        weight = layer.base_layer.base_layer.weight.double()
        x = torch.randn(3, weight.shape[1], dtype=torch.float64)
        activations = x @ packed.shrink.double().T
        alpha, beta = torch.sigmoid(activations[:, -2:] + packed.biases.double()).T[..., None]
        gated = torch.cat([alpha * activations[:, :7], beta * activations[:, 7:14]], dim=1)
        assert torch.allclose(layer(x), (alpha + beta) * (x @ weight.T) + gated @ packed.expand.double().T, atol=1e-5)
    names = [f"model.layers.{index}.{path}" for index in (0, 2) for path in ("self_attn.q_proj", "mlp.down_proj")]
    assert set(names) < set(adapter.plain)
    assert len(adapter.plain) == 12  # all adapted modules but o_proj, in two layers
    assert adapter.module_names == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    for name in names:
        numbers = next(adapted.numbers for adapted in slow.adapted if adapted is slow.model.get_submodule(name))
        lora_a, lora_b = adapter.plain[name]
        assert torch.allclose(lora_b.double() @ lora_a.double(), numbers.scaling * numbers.b @ numbers.a, atol=1e-5)


def test_a_model_that_routes_again_after_a_marker_is_refused(saved):
    model, folder = saved
    model.mogu_config.answer_marker = "</think>"
    model.save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"routes again after '</think>'.*set answer_marker to null"):
        read_packed_adapter(folder)


def test_a_gated_model_with_a_marker_is_served_since_an_expert_stays_on_behind_it(make_gated, tmp_path):
    model, _ = make_gated("llama", gated_config(careful=None))
    model.mogu_config.answer_marker = "</think>"
    model.save_pretrained(tmp_path / "gated")
    assert read_packed_adapter(tmp_path / "gated").config.answer_marker == "</think>"


def test_a_careful_responder_is_a_second_lora(make_gated, tmp_path):
    model, slow = make_gated("llama", gated_config(careful=0.4))
    model.save_pretrained(tmp_path / "gated")
    adapter = read_packed_adapter(tmp_path / "gated")
    assert (adapter.slots, adapter.rank) == (2, 4)  # unwill's, above the careful one's 2
    assert adapter.module_names == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert {name.rpartition(".")[2] for name in adapter.plain} == {"o_proj"}
    assert {name.rpartition(".")[2] for name in adapter.careful} == set(adapter.module_names)
    for name, (lora_a, lora_b) in adapter.careful.items():
        base, careful = (slow.models[who].get_submodule(name).weight for who in ("base", "careful"))
        assert torch.allclose((lora_b @ lora_a).to(base), careful - base, atol=1e-5)


def test_a_stream_head_stands_below_the_gate(make_gated, tmp_path):
    """What is made of a token's hidden states ``h_l`` is ``Σ_l W_l h_l``, of the gate and of the stream head."""
    model, _ = make_gated("llama", gated_config(careful=None, listen=0.5))
    model.save_pretrained(tmp_path / "gated")
    served = read_packed_adapter(tmp_path / "gated").gate
    hidden = {tap: torch.randn(32, generator=torch.Generator().manual_seed(tap)) for tap in served.taps}
    found = sum(weights @ hidden[tap] for tap, weights in served.weights().items())
    of_gate, of_stream = (sum(vectors @ hidden[tap] for tap, vectors in part.vectors.items()) for part in (model.gate, model.stream))
    assert torch.allclose(found, torch.cat([of_gate, of_stream]), atol=1e-5)
    assert len(found) == served.rows


def test_a_stream_head_that_is_not_there_cannot_listen(make_gated, tmp_path):
    model, _ = make_gated("llama", gated_config(careful=None, listen=0.5))
    model.save_pretrained(tmp_path / "gated")
    write_gate(tmp_path / "gated" / "router.safetensors", model.gate, None)
    with pytest.raises(ModelFileError, match=r"has no stream head"):
        read_packed_adapter(tmp_path / "gated")


def test_a_gated_model_is_a_plain_lora_and_a_gate(make_gated, tmp_path):
    model, slow = make_gated("llama", gated_config(careful=None))
    model.save_pretrained(tmp_path / "gated")
    adapter = read_packed_adapter(tmp_path / "gated")
    assert (adapter.layers, adapter.careful, adapter.rank, adapter.slots) == ({}, {}, 4, 1)
    assert adapter.gate is not None
    assert (adapter.gate.config, adapter.gate.marks) == (model.gate_config, model.marks)
    assert {tap: vectors.tolist() for tap, vectors in adapter.gate.gate.vectors.items()} == {
        tap: vectors.tolist() for tap, vectors in model.gate.vectors.items()
    }
    assert list(adapter.plain) == [f"model.layers.{layer}.self_attn.o_proj" for layer in range(len(adapter.plain))]
    for name, (lora_a, lora_b) in adapter.plain.items():
        base, unwill = (slow.models[who].get_submodule(name).weight for who in ("base", "unwill"))
        assert torch.allclose((lora_b @ lora_a).to(base), unwill - base, atol=1e-5)
