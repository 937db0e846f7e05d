"""A saved model as it is served, against the routed layer's formula in float64."""

from __future__ import annotations

import pytest
import torch

from mogu import MoguConfig
from mogu.errors import ConfigError, MoguError
from mogu.modeling.config import BackboneConfig
from mogu.serving.packed_adapter import is_mogu_folder, read_packed_adapter
from mogu.serving.vllm_args import named_folders, serve_arguments


@pytest.fixture
def saved(make_pair, tmp_path):
    model, _ = make_pair("llama", config=MoguConfig(rank=4, lora_alpha=12, layers=[0, 2], base_model="some/base", base_revision="abc"))
    model.save_pretrained(tmp_path / "safer")
    return model, tmp_path / "safer"


def test_its_parts_give_the_routed_layer_s_output(saved):
    model, folder = saved
    adapter = read_packed_adapter(folder)
    assert is_mogu_folder(folder)
    assert adapter.rank == 10
    assert list(adapter.layers) == [f"model.layers.{layer}.self_attn.o_proj" for layer in (0, 2)]
    for layer, served in zip(model.routed_layers, adapter.layers.values(), strict=True):
        x = torch.randn(3, layer.in_features, dtype=torch.float64)
        activations = x @ served.shrink.double().T
        alpha, beta = torch.sigmoid(activations[:, -2:] + served.biases.double()).T[..., None]
        low_rank = torch.cat([alpha * activations[:, :4], beta * activations[:, 4:8]], dim=1) @ served.expand.double().T
        expected = (alpha + beta) * (x @ layer.base_layer.weight.double().T) + low_rank
        assert torch.allclose(layer(x), expected, atol=1e-5)


def test_a_second_opening_is_refused_before_a_server_starts(saved):
    model, folder = saved
    model.mogu_config.answer_marker = "</think>"
    model.save_pretrained(folder)
    for read in (lambda: read_packed_adapter(folder), lambda: serve_arguments({"a": folder}, base_model=None, host="::1", options=[])):
        with pytest.raises(ConfigError, match=r"routes again after '</think>'.*set answer_marker to null"):
            read()


def test_an_adapted_backbone_gives_the_routed_layer_s_output(make_pair, tmp_path):
    """Its LoRA on the routed projection is a part of both responders there; elsewhere it is a plain LoRA."""
    config = MoguConfig(rank=4, lora_alpha=12, layers=[0, 2], backbone=BackboneConfig(rank=3, lora_alpha=6), base_model="some/base")
    model, slow = make_pair("llama", config=config)
    model.save_pretrained(tmp_path / "v2")
    adapter = read_packed_adapter(tmp_path / "v2")
    assert adapter.rank == 2 * (4 + 3) + 2
    for layer, served in zip(slow.layers, adapter.layers.values(), strict=True):
        plain = layer.base_layer.base_layer.weight.double()
        x = torch.randn(3, plain.shape[1], dtype=torch.float64)
        activations = x @ served.shrink.double().T
        alpha, beta = torch.sigmoid(activations[:, -2:] + served.biases.double()).T[..., None]
        gated = torch.cat([alpha * activations[:, :7], beta * activations[:, 7:14]], dim=1)
        assert torch.allclose(layer(x), (alpha + beta) * (x @ plain.T) + gated @ served.expand.double().T, atol=1e-5)
    names = [f"model.layers.{index}.{path}" for index in (0, 2) for path in ("self_attn.q_proj", "mlp.down_proj")]
    assert set(names) < set(adapter.backbone)
    assert len(adapter.backbone) == 12  # without o_proj, in two layers
    for name in names:
        numbers = next(one.numbers for one in slow.adapted if one is slow.model.get_submodule(name))
        lora_a, lora_b = adapter.backbone[name]
        assert torch.allclose(lora_b.double() @ lora_a.double(), numbers.scaling * numbers.b @ numbers.a, atol=1e-5)
    found = serve_arguments({"v2": tmp_path / "v2"}, base_model=None, host="::1", options=[])
    start = found.index("--lora-target-modules") + 1
    assert found[start : start + 7] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_the_command_line(saved, tmp_path):
    _, folder = saved
    found = serve_arguments(
        {"safer": folder}, base_model=None, host="127.0.0.1", options=["--port", "9", "--lora-modules", "a=b", "c=d", "--enforce-eager"]
    )
    assert found[:3] == ["some/base", "--host", "127.0.0.1"]
    modules = found.index("--lora-modules")
    assert found[modules + 1 : modules + 4] == [f"safer={folder}", "a=b", "c=d"]
    assert found.count("--lora-modules") == 1
    assert found[found.index("--revision") + 1] == "abc"
    assert found[found.index("--max-lora-rank") + 1] == "16"
    assert found[found.index("--max-loras") + 1] == "3"
    assert found[-3:] == ["--port", "9", "--enforce-eager"]
    assert "--lora-target-modules" not in found  # the others may have adapters anywhere

    alone = serve_arguments({"safer": folder}, base_model="elsewhere", host="::1", options=["--max-lora-rank=64", "--max-loras", "2"])
    assert alone[0] == "elsewhere"
    assert "--revision" not in alone
    assert alone[alone.index("--lora-target-modules") + 1] == "o_proj"
    assert alone[-3:] == ["--max-lora-rank=64", "--max-loras", "2"]
    assert alone.count("--max-loras") == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "mogu_config.json").unlink(), "holds no mogu_config.json"),
        (lambda folder: (folder / "glad" / "adapter_model.safetensors").unlink(), "adapter_model.safetensors does not exist"),
        (lambda folder: (folder / "router.safetensors").write_bytes(b""), "router.safetensors"),
    ],
)
def test_a_broken_folder_is_one_clear_error(saved, spoil, said):
    _, folder = saved
    spoil(folder)
    with pytest.raises(MoguError, match=said):
        serve_arguments({"safer": folder}, base_model=None, host="127.0.0.1", options=[])


def test_models_that_cannot_be_served_together(saved, make_pair, tmp_path):
    _, folder = saved
    other, _ = make_pair("llama", config=MoguConfig(rank=4, lora_alpha=12, base_model="another/base"))
    other.save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "elsewhere" / "safer")
    with pytest.raises(MoguError, match="different base models: another/base, some/base"):
        serve_arguments(named_folders([str(folder), str(tmp_path / "other")]), base_model=None, host="127.0.0.1", options=[])
    with pytest.raises(MoguError, match="Two saved models are called 'safer'"):
        named_folders([str(folder), str(tmp_path / "elsewhere" / "safer")])
    with pytest.raises(MoguError, match="nowhere"):
        named_folders([str(tmp_path / "nowhere")])
