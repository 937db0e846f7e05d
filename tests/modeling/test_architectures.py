"""Every family of the table, on a tiny random model in float64, against the formula written down term by term."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from mogu import MoguConfig, MoguModel
from mogu.errors import ArchitectureError, ConfigError
from mogu.modeling.architectures import OUTPUT_PROJECTIONS, candidate_projections, find_output_projections

pytestmark = pytest.mark.core

IDS = torch.tensor([[5, 9, 33, 12, 60, 7, 41, 22, 18, 50], [11, 6, 29, 44, 8, 52, 37, 15, 61, 10]])


def logits(model, ids=IDS, **options):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, **options).logits


def test_every_entry_of_the_table_is_tested(families):
    assert set(OUTPUT_PROJECTIONS) == families


def test_off_is_the_base_model_bit_for_bit_and_detach_gives_it_back(make_base, make_pair, every_family):
    base = make_base(every_family)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    modules = dict(base.named_modules())
    trains = {name: parameter.requires_grad for name, parameter in base.named_parameters()}  # all but the bias of some experts' routers
    expected = logits(base)
    model, _ = make_pair(every_family)
    with model.routing("off"):
        assert torch.equal(logits(model), expected)
    assert not torch.allclose(logits(model), expected, atol=1e-2)

    wrapped = MoguModel.from_base(base)
    detached = wrapped.detach()
    assert detached is base
    assert dict(detached.named_modules()) == modules
    assert {name: parameter.requires_grad for name, parameter in detached.named_parameters()} == trains
    assert any(trains.values())
    assert set(before) == set(detached.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in detached.state_dict().items())


def test_routed_logits_weights_and_responders_follow_the_formula(make_pair, every_family):
    model, slow = make_pair(every_family)
    torch.testing.assert_close(logits(model), slow.logits(IDS), atol=1e-5, rtol=1e-5)
    weights = model.routing_weights
    for which in ("unwill", "glad"):
        expected = torch.stack([getattr(layer, f"{which}_weight").view(IDS.shape) for layer in slow.layers])
        assert weights[which].shape == (len(slow.layers), *IDS.shape)
        torch.testing.assert_close(weights[which].double(), expected, atol=1e-6, rtol=1e-6)

    model.dial = 0.75
    for layer in slow.layers:
        layer.dial = 0.75
    torch.testing.assert_close(logits(model), slow.logits(IDS), atol=1e-5, rtol=1e-5)

    for mode, other in (("unwill", "glad"), ("glad", "unwill")):
        for layer in slow.layers:  # one responder alone is α = 1, β = 0, or the other way round
            layer.numbers = copy.copy(layer.numbers)
            setattr(layer.numbers, f"c_{mode}", 1e4)
            setattr(layer.numbers, f"c_{other}", -1e4)
        with model.routing(mode):
            torch.testing.assert_close(logits(model), slow.logits(IDS), atol=1e-5, rtol=1e-5)


def test_gradients_reach_only_what_is_trained(make_pair, every_family):
    model, _ = make_pair(every_family)
    model.injected.start_router_training()
    model(input_ids=IDS).logits.logsumexp(-1).sum().backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".routers." in name for name in with_gradient)
    assert len(with_gradient) == len(model.routed_layers) * 2 * 5
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def test_saving_and_loading_changes_nothing(make_base, make_pair, tmp_path: Path, every_family):
    model, _ = make_pair(every_family)
    model.dial = 0.25
    model.save_pretrained(tmp_path / "saved")
    loaded = MoguModel.from_pretrained(tmp_path / "saved", base_model=make_base(every_family))
    # The saved numbers are float32; these models compute in float64.
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-4, rtol=1e-4)
    assert loaded.dial == 0.25


def test_generation_equals_decoding_written_out(make_pair, every_family):
    model, slow = make_pair(every_family)
    prompt = IDS[:1]
    expected = slow.greedy(prompt, routed_tokens=3, new_tokens=8)
    assert expected != slow.greedy(prompt, routed_tokens=0, new_tokens=8)
    options = {"do_sample": False, "max_new_tokens": 8, "routed_tokens": 3}
    assert model.generate(prompt, handoff="recompute", **options)[0, 10:].tolist() == expected
    expected = slow.greedy_continued(prompt, routed_tokens=3, new_tokens=8)
    assert model.generate(prompt, handoff="continue", **options)[0, 10:].tolist() == expected


def test_a_left_padded_batch_equals_one_by_one(make_pair, every_family):
    # Gemma 2's eager attention takes its softmax in float32, where float64's mask value overflows.
    model, slow = make_pair(every_family, torch.float32 if every_family == "gemma2" else torch.float64)
    prompts = [IDS[0].tolist(), IDS[1, :4].tolist(), IDS[1, :7].tolist()]
    ids = torch.tensor([[0] * (10 - len(prompt)) + prompt for prompt in prompts])
    for handoff, alone in (("recompute", slow.greedy), ("continue", slow.greedy_continued)):
        options = {"do_sample": False, "max_new_tokens": 7, "routed_tokens": 3, "handoff": handoff}
        batch = model.generate(ids, attention_mask=(ids != 0).long(), **options)[:, 10:].tolist()
        assert batch == [alone(torch.tensor([prompt]), routed_tokens=3, new_tokens=7) for prompt in prompts]


def test_an_unknown_architecture_gets_the_candidates_and_the_option(make_base):
    model = make_base("llama")
    model.config.model_type = "newcomer"
    with pytest.raises(ArchitectureError) as caught:
        MoguModel.from_base(model)
    message = str(caught.value)
    assert "'newcomer'" in message
    assert "output_projection" in message
    assert "--output-projection" in message
    assert "candidates: self_attn.o_proj." in message  # and nothing of the feed-forward network
    named = MoguModel.from_base(model, MoguConfig(output_projection="self_attn.o_proj"))
    assert named.routed_module_names == [f"model.layers.{layer}.self_attn.o_proj" for layer in range(3)]


def test_a_model_without_attention_is_refused():
    config = MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4)
    with pytest.raises(ArchitectureError, match=r"choose a model with attention"):
        MoguModel.from_base(MambaForCausalLM(config))


def test_a_path_that_names_nothing_and_layers_that_do_not_exist_are_refused(make_base):
    model = make_base("llama")
    with pytest.raises(ArchitectureError, match=r"'<layer>\.attn\.nothing'"):
        MoguModel.from_base(model, MoguConfig(output_projection="attn.nothing"))
    with pytest.raises(ArchitectureError, match=r"\[3, 7\] are not in this model.*from 0 to 2"):
        MoguModel.from_base(model, MoguConfig(layers=[0, 3, 7]))
    with pytest.raises(ArchitectureError, match="empty"):
        MoguModel.from_base(model, MoguConfig(layers=[]))
    with pytest.raises(ConfigError, match="rank 64"):
        MoguModel.from_base(model, MoguConfig(rank=64))
    assert not any(type(module).__name__ == "RoutedLinear" for module in model.modules())


def test_only_the_named_layers_are_routed(make_base):
    model = MoguModel.from_base(make_base("llama"), MoguConfig(layers=[2, 0]))
    assert model.routed_layer_indices == [0, 2]
    assert isinstance(model.base_model.get_submodule("model.layers.1.self_attn.o_proj"), nn.Linear)
    logits(model)
    assert model.routing_weights["unwill"].shape == (2, *IDS.shape)


def test_a_vision_tower_is_left_alone(make_base):
    model = make_base("gemma3")
    names = [projection.name for projection in find_output_projections(model)]
    assert len(names) == 3
    assert all("vision" not in name for name in names)


def test_only_what_attention_ends_with_is_a_candidate():
    config = AutoConfig.for_model("llama", vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    assert candidate_projections(LlamaForCausalLM(config)) == ["self_attn.o_proj"]
