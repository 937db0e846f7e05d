"""Tiny sides to try a playground with: a gated and a routed model, each with its plain self."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from mogu.modeling.gated.model import GatedModel
from mogu.playground.sides import Side
from tests.gated_models import gated_config


@pytest.fixture
def gated(make_gated: Callable[..., Any], tokenizer: PreTrainedTokenizerFast) -> GatedModel:
    """Flags every prompt."""
    user, assistant = tokenizer.convert_tokens_to_ids(["<user>", "<assistant>"])
    model: GatedModel = make_gated("llama", gated_config(before=(user,), after=(assistant,), careful=None, refuse=0.0))[0]
    model.use_tokenizer(tokenizer)
    return model


@pytest.fixture
def sides(gated: GatedModel, tokenizer: PreTrainedTokenizerFast) -> list[Side]:
    return [Side("tiny, plain", "plain", gated, tokenizer), Side("tiny", "hardened", gated, tokenizer)]


@pytest.fixture
def routed_sides(make_pair: Callable[..., Any], tokenizer: PreTrainedTokenizerFast) -> list[Side]:
    model, _ = make_pair("llama")
    model.use_tokenizer(tokenizer)
    return [Side("other, plain", "plain", model, tokenizer), Side("other", "hardened", model, tokenizer)]
