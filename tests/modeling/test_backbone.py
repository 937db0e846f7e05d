"""MoGU V2: a backbone that is adapted while the model routes, against the formula written out and against PEFT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from mogu import MoguConfig, MoguModel
from mogu.errors import ArchitectureError, ConfigError, ModelFileError
from mogu.modeling.adapter_files import Adapter
from mogu.modeling.checkpoint import read_config
from mogu.modeling.config import BackboneConfig
from mogu.modeling.layers import AdaptedLinear, WrappedLinear

pytestmark = pytest.mark.core

IDS = torch.tensor([[5, 9, 33, 12, 60, 7], [11, 6, 29, 44, 8, 52]])
ATTENTION = BackboneConfig(modules=["q_proj", "v_proj"], rank=3, lora_alpha=6)


def v2(**settings) -> MoguConfig:
    return MoguConfig(**{"rank": 4, "lora_alpha": 12, "layers": [1, 2], "backbone": BackboneConfig(rank=3, lora_alpha=6)} | settings)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_every_family(make_pair, make_base, every_family):
    """Mode "on" is the formula, also on the adapted output projection, which routing scales; "off" is the base bit for bit."""
    plain = logits(make_base(every_family))
    model, slow = make_pair(every_family, config=v2())
    torch.testing.assert_close(logits(model), slow.logits(IDS), atol=1e-6, rtol=1e-4)
    assert not torch.allclose(logits(model), plain, atol=1e-2)
    assert {int(projection.layer) for projection, _ in model.injected.adapted} == {1, 2}
    with model.routing("off"):
        assert torch.equal(logits(model), plain)
    assert torch.equal(logits(model.plain_base_model()), plain)


@pytest.mark.parametrize("name", ["glad", "unwill"])
def test_a_responder_alone_is_one_of_the_plain_backbone(make_pair, name):
    """As it was trained: the backbone's LoRA belongs to the routers."""
    model, _ = make_pair(config=v2())
    without, _ = make_pair(config=v2(backbone=None))
    with model.routing(name), without.routing(name):
        torch.testing.assert_close(logits(model), logits(without))


@pytest.mark.parametrize("handoff", ["recompute", "continue"])
def test_the_opening_alone_is_adapted(make_pair, handoff):
    model, slow = make_pair(config=v2())
    found = model.generate(IDS[:1], routed_tokens=4, handoff=handoff, max_new_tokens=12, do_sample=False)[0, 6:].tolist()
    if handoff == "recompute":
        assert found == slow.greedy(IDS[:1], routed_tokens=4, new_tokens=12)
    else:
        assert found == slow.greedy_continued(IDS[:1], routed_tokens=4, new_tokens=12)
    assert found != slow.greedy(IDS[:1], routed_tokens=0, new_tokens=12)


def test_which_modules(make_base):
    model = MoguModel.from_base(make_base(), v2(backbone=ATTENTION))
    assert [projection.name for projection, _ in model.injected.adapted] == [
        f"model.layers.{layer}.self_attn.{name}" for layer in (1, 2) for name in ("q_proj", "v_proj")
    ]
    # Two layers: responders of rank 4 and routers on o_proj (32 -> 32), a LoRA of rank 3 on q (32 -> 32) and v (32 -> 16).
    assert model.added_parameters() == 2 * ((2 * 4 + 2) * 32 + 2 * 4 * 32 + 2) + 2 * 3 * ((32 + 32) + (32 + 16))
    base = model.detach()
    assert not [module for module in base.modules() if isinstance(module, WrappedLinear)]
    everything = MoguModel.from_base(base, v2())
    found = {module.name.partition("layers.1.")[2] for module, _ in everything.injected.adapted if module.layer == 1}
    assert found == {f"self_attn.{name}_proj" for name in "qkvo"} | {f"mlp.{name}_proj" for name in ("gate", "up", "down")}


@pytest.mark.parametrize(
    ("backbone", "error", "said"),
    [
        (BackboneConfig(modules=["q_proj", "query"]), ArchitectureError, "called query"),
        (BackboneConfig(modules=[]), ArchitectureError, "self_attn.q_proj"),
        (BackboneConfig(rank=40), ConfigError, "rank 40 on layers of width 16"),
    ],
)
def test_a_backbone_that_cannot_be_adapted(make_base, backbone, error, said):
    base = make_base()
    with pytest.raises(error, match=said):
        MoguModel.from_base(base, v2(backbone=backbone))
    assert not [module for module in base.modules() if isinstance(module, WrappedLinear)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_comes_back(make_pair, make_base, tmp_path: Path, dtype):
    model, _ = make_pair("llama", dtype, config=v2())
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "mogu_config.json").read_text())["format_version"] == 5
    loaded = MoguModel.from_pretrained(tmp_path / "saved", base_model=make_base("llama", dtype))
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-6 if dtype == torch.float32 else 0, rtol=0)
    assert loaded.added_parameters() == model.added_parameters()


def test_a_model_without_one_says_so(make_pair, tmp_path: Path):
    model, _ = make_pair()
    model.save_pretrained(tmp_path / "saved")
    assert model.injected.backbone() is None
    assert not (tmp_path / "saved" / "backbone").exists()
    assert read_config(tmp_path / "saved").backbone is None


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon"])
def test_peft_reads_the_backbone_s_lora(make_pair, make_base, tmp_path: Path, family):
    """Routing with weights of one half each and no responders is the adapted backbone, which is what PEFT makes of the folder."""
    model, _ = make_pair(family, torch.float32, config=v2())
    model.save_pretrained(tmp_path / "saved")
    peft_model = PeftModel.from_pretrained(make_base(family, torch.float32), tmp_path / "saved" / "backbone").eval()
    for layer in model.routed_layers:
        layer.set_router(torch.zeros(2, layer.in_features), torch.zeros(2))
        for name in ("glad", "unwill"):
            layer.set_responder(name, torch.zeros(4, layer.in_features), torch.zeros(layer.out_features, 4))
    torch.testing.assert_close(logits(model), logits(peft_model), atol=1e-4, rtol=1e-4)


def test_a_lora_of_another_model_is_refused(make_pair, tmp_path: Path):
    model, _ = make_pair(config=v2())
    own = model.injected.backbone()
    assert own is not None
    with pytest.raises(ModelFileError, match="backbone's LoRA has rank 3 and alpha 9"):
        model.injected.set_backbone(Adapter(own.weights, 3, 9))
    fewer = dict(list(own.weights.items())[1:])
    with pytest.raises(ModelFileError, match="adapts 13 modules"):
        model.injected.set_backbone(Adapter(fewer, 3, 6))
    without, _ = make_pair()
    with pytest.raises(ConfigError, match="no adapted backbone"):
        without.injected.set_backbone(own)
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "backbone" / "adapter_config.json").unlink()
    with pytest.raises(ModelFileError, match="backbone holds no adapter_config"):
        MoguModel.from_pretrained(tmp_path / "saved", base_model=without.detach())


def test_training_begins_anew_in_float32_and_ends_in_the_base_s_type(make_pair):
    model, _ = make_pair("llama", torch.bfloat16, config=v2())
    adapted = [module for module in model.modules() if isinstance(module, AdaptedLinear)]
    assert len(adapted) == 14
    model.injected.start_router_training()
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert all(layer.up.count_nonzero() == 0 and layer.down.count_nonzero() for layer in adapted)
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(layer.up.grad is not None and layer.up.grad.count_nonzero() for layer in adapted)
    model.injected.finish_router_training()
    assert not [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {layer.up.dtype for layer in adapted} == {torch.bfloat16}
