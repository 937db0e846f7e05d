"""The second reading without the layers below the first routed one: the same answers, and those layers read nothing twice."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from transformers import DynamicCache

from mogu import MoguConfig
from mogu.errors import ConfigError
from mogu.inference.padding import left_pad
from mogu.modeling.architectures import decoder_layer_name
from mogu.modeling.config import BackboneConfig
from mogu.transformers_compat import CACHE, cache_of

pytestmark = pytest.mark.core

PROMPT = torch.tensor([[5, 9, 33, 12, 60, 7, 41, 22, 18, 50]])
GREEDY = {"do_sample": False, "max_new_tokens": 10, "eos_token_id": None}


def routed_from(layer: int, **settings) -> MoguConfig:
    return MoguConfig(**{"rank": 4, "lora_alpha": 12, "layers": list(range(layer, 3)), "routed_tokens": 4} | settings)


def decoder_layer(model, index: int) -> torch.nn.Module:
    path = decoder_layer_name(model.routed_module_names[0]).rpartition(".")[0]
    return model.base_model.get_submodule(f"{path}.{index}")


def tokens_computed(model, index: int, generate) -> list[int]:
    """How many tokens one layer really computes in each pass: those that its attention output projection maps."""
    name = model.routed_module_names[0].replace(decoder_layer_name(model.routed_module_names[0]), "")
    seen: list[int] = []
    module = decoder_layer(model, index).get_submodule(name[1:])
    hook = module.register_forward_hook(lambda _, args, output: seen.append(output.numel() // output.shape[-1]))
    try:
        generate()
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize("first", [1, 2])
def test_every_family(make_pair, every_family, first):
    model, slow = make_pair(every_family, config=routed_from(first, backbone=BackboneConfig(rank=2)))
    found = model.generate(PROMPT, **GREEDY)[0, PROMPT.shape[1] :].tolist()
    assert found == slow.greedy(PROMPT, routed_tokens=4, new_tokens=10)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_only_the_layers_from_the_first_routed_one_read_twice(make_pair, first):
    model, _ = make_pair("llama", config=routed_from(first))
    for layer in range(3):
        passes = [10, 1, 1, 1] + ([14] if layer >= first else [1]) + [1] * 5
        assert tokens_computed(model, layer, lambda: model.generate(PROMPT, **GREEDY)) == passes


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "falcon-alibi", "opt"])
def test_a_padded_batch(make_pair, family):
    model, slow = make_pair(family, config=routed_from(1))
    prompts = [PROMPT[0].tolist(), [7, 41], [11, 6, 29, 44, 8, 52, 33, 12, 60, 7, 41, 22]]
    batch = left_pad(prompts, 0, torch.device("cpu"))
    found = model.generate(**batch, **GREEDY)[:, batch["input_ids"].shape[1] :].tolist()
    assert found == [slow.greedy(torch.tensor([prompt]), routed_tokens=4, new_tokens=10) for prompt in prompts]


@pytest.mark.parametrize("routed_tokens", [0, 1, 9, 10, "all"])
def test_every_length_of_the_opening(make_pair, routed_tokens):
    model, slow = make_pair(config=routed_from(1))
    found = model.generate(PROMPT, **GREEDY, routed_tokens=routed_tokens)[0, PROMPT.shape[1] :].tolist()
    assert found == slow.greedy(PROMPT, routed_tokens=routed_tokens, new_tokens=10)


def test_on_the_cache_of_an_earlier_turn(make_pair):
    """What the base model read in the first turn stays, and only the second turn is read twice."""
    model, slow = make_pair(config=routed_from(1))
    second = torch.tensor([[3, 8, 44, 21]])
    conversation = torch.cat([PROMPT, second], dim=1)
    cache = DynamicCache(config=model.base_model.config)
    with torch.no_grad(), model.routing("off"):
        model(input_ids=PROMPT, use_cache=True, **{CACHE: cache})
    answers: list[list[int]] = []
    generate = functools.partial(model.generate, conversation, **{CACHE: cache}, **GREEDY)
    assert tokens_computed(model, 0, lambda: answers.append(generate()[0, 14:].tolist())) == [4] + [1] * 9
    assert [layer.keys.shape[2] for layer in cache.layers] == [14 + 10 - 1] * 3

    slow.route(False)
    with torch.no_grad():
        past = cache_of(slow.model(input_ids=PROMPT, use_cache=True, **{CACHE: DynamicCache(config=model.config)}))
        before = copy.deepcopy(past)
        expected: list[int] = []
        step = second
        for number in range(10):
            if number == 4:
                past, step = before, torch.cat([second, torch.tensor([expected])], dim=1)
            slow.route(number < 4)
            result = slow.model(input_ids=step, use_cache=True, **{CACHE: past})
            past, step = cache_of(result), result.logits[:, -1:].argmax(-1)
            expected.append(int(step))
    assert answers == [expected]


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"output_hidden_states": True, "return_dict_in_generate": True},
        {"output_attentions": True, "return_dict_in_generate": True},
        {"cache_implementation": "static"},
    ],
)
def test_what_needs_the_layers_below_reads_all_of_them(make_pair, options):
    model, _ = make_pair("llama", config=routed_from(1), attn_implementation="eager")
    computed = tokens_computed(model, 0, lambda: model.generate(PROMPT, **GREEDY, **options))
    assert 14 * options.get("num_beams", 1) in computed


def test_the_model_is_as_before(make_pair):
    model, slow = make_pair(config=routed_from(1))
    layers = [decoder_layer(model, index) for index in range(3)]
    before = [dict(vars(layer)) for layer in layers]
    model.generate(PROMPT, **GREEDY)
    with pytest.raises(ConfigError):
        model.generate(PROMPT, routed_tokens=-1)
    hook = layers[2].register_forward_pre_hook(lambda _, args: (_ for _ in ()).throw(RuntimeError) if args[0].shape[1] == 14 else None)
    with pytest.raises(RuntimeError):
        model.generate(PROMPT, **GREEDY)
    hook.remove()
    assert [dict(vars(layer)) for layer in layers] == before
    assert not [layer for layer in layers if layer._forward_pre_hooks or layer._forward_hooks]
    assert model.generate(PROMPT, **GREEDY)[0, 10:].tolist() == slow.greedy(PROMPT, routed_tokens=4, new_tokens=10)
