"""Routing on every assistant turn of a conversation, the whole of it encoded anew or its earlier turns kept in a cache."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache

from mogu import MoguConfig
from mogu.inference.padding import left_pad
from mogu.inference.prompts import encode_marker, encode_prompt
from mogu.modeling.config import BackboneConfig
from mogu.transformers_compat import CACHE

pytestmark = pytest.mark.core

ASKED = ["How do I bake", "And then?", "Thanks!"]
M, NEW = 3, 9
both_handoffs = pytest.mark.parametrize("handoff", ["recompute", "continue"])


@pytest.fixture(scope="module", params=["V1", "V2"])
def pair(request, make_pair, tokenizer):
    v2 = {"layers": [1, 2], "backbone": BackboneConfig(rank=2)} if request.param == "V2" else {}
    model, slow = make_pair(config=MoguConfig(rank=4, lora_alpha=12, routed_tokens=M, **v2), max_position_embeddings=256)
    model.tokenizer = tokenizer
    return model, slow


def turn(slow, past: DynamicCache, new: list[int], handoff: str, m: int = M) -> tuple[list[int], DynamicCache]:
    """One assistant turn written out: the reply, and the cache that it leaves, in which the reply's last token is not read yet."""
    answer: list[int] = []
    cache, step = copy.deepcopy(past), new
    while len(answer) < NEW:
        if handoff == "recompute" and 0 < len(answer) == m:
            cache, step = copy.deepcopy(past), new + answer
        slow.route(len(answer) < m)
        with torch.no_grad():
            logits = slow.model(input_ids=torch.tensor([step]), use_cache=True, **{CACHE: cache}).logits
        answer.append(int(logits[0, -1].argmax()))
        step = answer[-1:]
    return answer, cache


@both_handoffs
def test_every_turn_of_a_conversation_encoded_anew_is_routed(pair, tokenizer, handoff):
    model, slow = pair
    turns: list[dict[str, str]] = []
    differs = 0
    for said in ASKED:
        turns.append({"role": "user", "content": said})
        prompt = encode_prompt(tokenizer, turns)
        batch = left_pad([prompt], 0, torch.device("cpu"))
        output = model.generate(**batch, max_new_tokens=NEW, do_sample=False, handoff=handoff)
        answer, _ = turn(slow, DynamicCache(config=model.config), prompt, handoff)
        assert output[0, len(prompt) :].tolist() == answer
        differs += answer != turn(slow, DynamicCache(config=model.config), prompt, handoff, m=0)[0]
        turns.append({"role": "assistant", "content": tokenizer.decode(answer)})
    assert differs == len(ASKED)  # not one turn was left to the base model


@both_handoffs
@pytest.mark.parametrize("whole", [True, False], ids=["whole conversation", "new part only"])
def test_every_turn_on_the_cache_of_the_turns_before_is_routed(pair, tokenizer, whole, handoff):
    """The cache that one turn leaves is what the next one starts from; nothing in it is read again."""
    model, slow = pair
    cache, past = DynamicCache(config=model.config), DynamicCache(config=model.config)
    talk: list[int] = []
    for said in ASKED:
        talk += tokenizer.convert_tokens_to_ids(["<user>", *said, "<assistant>"])
        new = talk[past.get_seq_length() :]
        options = {CACHE: cache, "attention_mask": torch.ones(1, len(talk), dtype=torch.long), "handoff": handoff}
        given = talk if whole or not past.get_seq_length() else new
        output = model.generate(torch.tensor([given]), max_new_tokens=NEW, do_sample=False, **options)
        answer, past = turn(slow, past, new, handoff)
        assert output[0, len(given) :].tolist() == answer
        talk += answer
        assert cache.get_seq_length() == past.get_seq_length() == len(talk) - 1
        for ours, expected in zip(cache.layers, past.layers, strict=True):
            torch.testing.assert_close(ours.keys, expected.keys, atol=1e-5, rtol=1e-5)


@both_handoffs
def test_a_marker_in_an_earlier_turn_opens_nothing(pair, tokenizer, handoff):
    """Only what is generated now counts."""
    model, slow = pair
    letter = "x"
    marker = encode_marker(tokenizer, letter)
    turns = [{"role": "user", "content": "x?"}, {"role": "assistant", "content": "axb"}, {"role": "user", "content": "Go on"}]
    prompt = encode_prompt(tokenizer, turns)
    answer, _ = turn(slow, DynamicCache(config=model.config), prompt, handoff)
    assert marker[0] in prompt
    assert marker[0] not in answer
    output = model.generate(torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False, handoff=handoff, answer_marker=letter)
    assert output[0, len(prompt) :].tolist() == answer
