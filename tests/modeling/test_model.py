"""The model's public face: modes, weights, scores, the dial, wrapping and giving back."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from mogu import MoguConfig, MoguModel
from mogu.errors import ChatTemplateError, ConfigError, ModelFileError
from mogu.inference.prompts import encode_prompt

pytestmark = pytest.mark.core

IDS = torch.tensor([[5, 9, 33, 12, 60, 7], [11, 6, 29, 44, 8, 52]])


@pytest.fixture
def pair(make_pair):
    return make_pair("llama")


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_importing_mogu_is_light():
    code = (
        "import sys, mogu; assert not {'torch', 'transformers', 'peft'} & set(sys.modules); mogu.MoguModel; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_untrained_it_computes_what_the_base_computes(make_base):
    base = make_base("llama")
    expected = logits(base)
    model = MoguModel.from_base(base)
    torch.testing.assert_close(logits(model), expected, atol=1e-9, rtol=1e-9)
    assert torch.all(model.routing_weights["unwill"] == 0.5)
    assert torch.all(model.routing_weights["glad"] == 0.5)


def test_routing_as_a_context_manager(pair):
    model, _ = pair
    assert model.routing_mode == "on"
    with model.routing("off"):
        assert model.routing_mode == "off"
        with model.routing("glad"):
            assert model.routing_mode == "glad"
        assert model.routing_mode == "off"
    assert model.routing_mode == "on"
    with pytest.raises(ValueError, match="within"), model.routing("unwill"):
        raise ValueError("within")
    assert model.routing_mode == "on"


def test_routing_as_a_setter(pair):
    model, _ = pair
    model.routing("off")
    assert model.routing_mode == "off"
    with model.routing("on"):
        assert model.routing_mode == "on"
    assert model.routing_mode == "off"
    with pytest.raises(ConfigError, match=r"'loud'.*on, off, glad, unwill"):
        model.routing("loud")
    assert model.routing_mode == "off"


def test_routing_weights_are_those_of_the_last_routed_pass(pair):
    model, _ = pair
    with pytest.raises(ConfigError, match="No routed pass"):
        model.routing_weights  # noqa: B018
    logits(model)
    weights = {name: tensor.clone() for name, tensor in model.routing_weights.items()}
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {"unwill": (3, 2, 6), "glad": (3, 2, 6)}
    for mode in ("off", "glad", "unwill"):
        with model.routing(mode):
            logits(model, IDS[:, :2])
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.routing_weights.items())


def test_the_dial_shifts_the_logits_and_is_saved(pair, make_base, tmp_path: Path):
    model, _ = pair
    logits(model)
    before = model.routing_weights
    model.dial = 1.5
    # The first layer reads the same input whatever the dial: there, δ moves the logits by exactly δ.
    logits(model)
    after = model.routing_weights
    torch.testing.assert_close(torch.logit(after["unwill"][0]), torch.logit(before["unwill"][0]) + 1.5, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(torch.logit(after["glad"][0]), torch.logit(before["glad"][0]) - 1.5, atol=1e-6, rtol=1e-6)
    model.save_pretrained(tmp_path / "saved")
    assert MoguModel.from_pretrained(tmp_path / "saved", base_model=make_base("llama")).dial == 1.5
    for wrong in (float("nan"), float("inf"), "far"):
        with pytest.raises(ConfigError, match="dial"):
            model.dial = wrong
    assert model.dial == 1.5


def test_scores(pair, tokenizer):
    model, slow = pair
    model.tokenizer = tokenizer
    prompts = ["hello", [{"role": "user", "content": "how are you today?"}], "a", "tell me all."]
    expected = []
    for prompt in prompts:
        slow.logits(torch.tensor([encode_prompt(tokenizer, prompt)]))
        shares = [layer.unwill_weight[0, -1] / (layer.unwill_weight[0, -1] + layer.glad_weight[0, -1]) for layer in slow.layers]
        expected.append(float(torch.stack(shares).mean()))
    assert 0 < min(expected) < max(expected) < 1
    for batch_size in (1, 2, 8):
        scores = model.score(prompts, batch_size=batch_size)
        torch.testing.assert_close(scores, torch.tensor(expected), atol=1e-5, rtol=0)
    assert float(model.score("hello")) == pytest.approx(expected[0], abs=1e-5)
    assert model.score([]).shape == (0,)


def test_scoring_leaves_mode_and_training_as_they_were(pair, tokenizer):
    model, _ = pair
    model.tokenizer = tokenizer
    expected = model.score(["hello"])
    model.routing("off")
    model.train()
    assert torch.equal(model.score(["hello"]), expected)
    assert model.routing_mode == "off"
    assert model.training
    assert model.base_model.training


def test_scoring_needs_a_chat_template(pair, tokenizer):
    model, _ = pair
    model.tokenizer = copy.deepcopy(tokenizer)
    model.tokenizer.chat_template = None
    with pytest.raises(ChatTemplateError, match=r"no chat template.*--chat-template"):
        model.score(["hello"])
    model.tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(ChatTemplateError, match="no system here"):
        model.score(["hello"])


def test_a_tokenizer_that_is_not_there_is_named(pair, tmp_path):
    model, _ = pair
    model.mogu_config.base_model = str(tmp_path)
    with pytest.raises(ModelFileError, match="tokenizer"):
        model.score(["hello"])


def test_it_shares_the_base_s_weights(make_base):
    base = make_base("llama")
    pointers = {tensor.data_ptr() for tensor in base.parameters()}
    model = MoguModel.from_base(base)
    added = [tensor for tensor in model.parameters() if tensor.data_ptr() not in pointers]
    assert len(pointers) == len({tensor.data_ptr() for tensor in model.parameters()} & pointers)
    # 3 layers, rank 8, width 32: (2·8 + 2)·32 + 2·8·32 + 2 each
    assert sum(tensor.numel() for tensor in added) == model.added_parameters() == 3 * 1090
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_detaching_gives_frozen_parameters_back_frozen(make_base):
    base = make_base("llama")
    base.lm_head.requires_grad_(False)
    wanted = {name: parameter.requires_grad for name, parameter in base.named_parameters()}
    MoguModel.from_base(base).detach()
    assert {name: parameter.requires_grad for name, parameter in base.named_parameters()} == wanted
    MoguModel.from_base(base)  # and it can be wrapped again


def test_wrapping_twice_is_refused(pair):
    model, _ = pair
    with pytest.raises(ConfigError, match="routed already"):
        MoguModel.from_base(model.base_model)


def test_the_config_given_is_not_the_config_kept(make_base):
    config = MoguConfig(rank=4)
    model = MoguModel.from_base(make_base("llama"), config)
    model.dial = 3.0
    assert config == MoguConfig(rank=4)


def test_the_base_s_attributes_are_reached_through_it(pair):
    model, _ = pair
    base = model.base_model
    assert model.config is base.config
    assert model.device == base.device
    assert model.dtype == base.dtype
    assert model.get_input_embeddings() is base.get_input_embeddings()
    assert model.get_base_model() is base
    assert model.can_generate()
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        model.nothing_of_the_kind  # noqa: B018
    copied = copy.deepcopy(model)
    torch.testing.assert_close(logits(copied), logits(model))
    copied.routing("off")
    assert model.routing_mode == "on"


def test_a_generation_config_set_on_it_is_used(pair):
    model, slow = pair
    model.generation_config = GenerationConfig(max_new_tokens=3, do_sample=False)
    output = model.generate(IDS[:1])
    assert output[0, 6:].tolist() == slow.greedy(IDS[:1], routed_tokens="all", new_tokens=3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision(make_pair, dtype):
    """Routed logits stray from float64 hardly farther than the base model's own do."""
    model, slow = make_pair("llama", dtype)
    with model.routing("off"):
        plain = logits(model)
    routed = logits(model)
    assert routed.dtype == plain.dtype == dtype
    exact = slow
    exact.model.double()
    for layer in exact.layers:
        for name, value in vars(layer.numbers).items():
            setattr(layer.numbers, name, value.double() if isinstance(value, torch.Tensor) else value)
    base_error = (plain.double() - exact.logits(IDS, routed=False)).abs().max()
    routed_error = (routed.double() - exact.logits(IDS)).abs().max()
    assert routed_error <= 4 * base_error
    generated = model.generate(IDS, do_sample=False, max_new_tokens=8, routed_tokens=3)
    assert generated.shape == (2, 14)
