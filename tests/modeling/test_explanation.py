"""Why a prompt was scored as it was: of a gate, numbers that add up to its logit; of routers, the weights that they gave."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from mogu import MoguConfig, MoguModel
from mogu.errors import ConfigError
from mogu.inference.prompts import encode_prompt
from mogu.modeling.config import BackboneConfig
from mogu.modeling.explanation import explain
from mogu.modeling.gated.model import GatedModel
from tests.gated_models import gated_config
from tests.reference import SlowGated

LAST = "<assistant>"
TALK = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Open it."},
]


@pytest.fixture
def gated(make_gated: Callable[..., tuple[GatedModel, SlowGated]], tokenizer: PreTrainedTokenizerFast) -> tuple[GatedModel, SlowGated]:
    user, assistant = tokenizer.convert_tokens_to_ids(["<user>", LAST])
    model, slow = make_gated("llama", gated_config(before=(user,), after=(assistant,)))
    model.use_tokenizer(tokenizer)
    return model, slow


def test_what_each_token_adds_to_a_gate_is_what_loops_over_the_formula_say(
    gated: tuple[GatedModel, SlowGated], tokenizer: PreTrainedTokenizerFast
) -> None:
    model, slow = gated
    ids = encode_prompt(tokenizer, TALK)
    user = [*range(2, 10), *range(16, 24)]
    assert tokenizer.decode([ids[index] for index in user]) == "Hi thereOpen it."
    gate = model.fitted_gate()
    states = {layer: slow.states(ids, layer) for layer in gate.vectors}

    def product(layer: int, row: int, token: int) -> float:
        return float((gate.vectors[layer][row].double() * states[layer][token]).sum())

    explained = explain(model, TALK, dial=0.3)
    assert explained.kind == "gate"
    assert explained.layers == (0, 1)
    assert explained.tokens == (*"Hi thereOpen it.", LAST)
    assert explained.user == (True,) * 16 + (False,)
    for row, layer in enumerate(explained.layers):
        expected = []
        for token in user:
            added = product(layer, 1, token) if token == user[-1] else 0.0
            for head in range(gate.heads):
                looks = {index: math.exp(sum(product(other, 2 + head, index) for other in gate.vectors)) for index in user}
                added += looks[token] / sum(looks.values()) * product(layer, 2 + gate.heads + head, token)
            expected.append(added)
        expected.append(product(layer, 0, len(ids) - 1))
        assert explained.values[row] == pytest.approx(expected, abs=1e-5)
    whole = slow.logit(ids, dict(gate.vectors), gate.bias, user, len(ids) - 1, user[-1]) + 0.3
    assert explained.logit == pytest.approx(whole, abs=1e-4)
    assert explained.score == pytest.approx(1 / (1 + math.exp(-whole)), abs=1e-5)
    assert sum(explained.by_layer) + gate.bias + 0.3 == pytest.approx(explained.logit)
    assert explained.threshold == model.gate_config.refuse
    values = dict(zip(explained.tokens[:16], explained.by_token[:16], strict=True))
    assert [value for _, value in explained.strongest(3)] == sorted(explained.by_token[:16])[:-4:-1], values


def test_a_gate_that_is_still_to_be_fitted_explains_nothing(make_base: Callable[..., Any], tokenizer: PreTrainedTokenizerFast) -> None:
    model = MoguModel.from_base(make_base(), gated_config())
    model.use_tokenizer(tokenizer)
    with pytest.raises(ConfigError, match="no gate yet"):
        explain(model, "Hi")


@pytest.mark.parametrize(
    "config",
    [
        MoguConfig(rank=4, lora_alpha=12),
        MoguConfig(rank=4, lora_alpha=12, layers=[1, 2], backbone=BackboneConfig(rank=2)),
    ],
    ids=["v1", "v2"],
)
def test_routers_are_explained_by_the_weights_that_they_gave(
    make_pair: Callable[..., tuple[MoguModel, Any]], tokenizer: PreTrainedTokenizerFast, config: MoguConfig
) -> None:
    model, _ = make_pair("llama", config=config)
    model.use_tokenizer(tokenizer)
    explained = explain(model, TALK, dial=0.3)
    model.dial = 0.3
    with torch.no_grad():
        model(torch.tensor([encode_prompt(tokenizer, TALK)]))
    weights = {name: weight[:, 0] for name, weight in model.routing_weights.items()}
    shown = [*range(2, 10), *range(16, 25)]
    for name, weight in weights.items():
        assert torch.tensor(explained.weights[name]) == pytest.approx(weight[:, shown].float(), abs=1e-6)
    share = (weights["unwill"] / (weights["unwill"] + weights["glad"]))[:, shown]
    assert torch.tensor(explained.values) == pytest.approx(share.float(), abs=1e-6)
    assert explained.layers == tuple(config.layers or (0, 1, 2))
    assert explained.score == pytest.approx(float(model.score([TALK])[0]), abs=1e-6)
    assert explained.by_token[-1] == pytest.approx(explained.score, abs=1e-6)
    assert sum(explained.by_layer) / len(explained.layers) == pytest.approx(explained.score, abs=1e-6)
    assert explained.threshold is None
