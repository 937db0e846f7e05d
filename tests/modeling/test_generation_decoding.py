"""Sampling and beam search with a routed opening, against both written out here without a cache."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from mogu.transformers_compat import CACHE

pytestmark = pytest.mark.core

PROMPT = torch.tensor([[5, 9, 33, 12, 60, 7, 41, 22, 18, 50]])
OTHER = torch.tensor([[11, 6, 29, 44]])
NEW = 7
both_handoffs = pytest.mark.parametrize("handoff", ["recompute", "continue"])


@pytest.fixture(scope="module")
def pair(make_pair):
    return make_pair("llama")


@torch.no_grad()
def next_logits(slow, sequences: Tensor, prompt_length: int, routed_tokens: int, handoff: str) -> Tensor:
    """Logits ``[rows, vocabulary]`` of the token after ``sequences``, as the handoff defines them."""
    if sequences.shape[1] - prompt_length < routed_tokens:
        return slow.logits(sequences, routed=True)[:, -1].float()
    if handoff == "recompute" or routed_tokens == 0:
        return slow.logits(sequences, routed=False)[:, -1].float()
    # Everything that was read while routing was on stays as routing left it: all but the opening's last token.
    read_routed = prompt_length + routed_tokens - 1
    cache = DynamicCache()
    slow.route(True)
    slow.model(input_ids=sequences[:, :read_routed], use_cache=True, **{CACHE: cache})
    slow.route(False)
    return slow.model(input_ids=sequences[:, read_routed:], use_cache=True, **{CACHE: cache}).logits[:, -1].float()


def beam_search(slow, prompt: Tensor, beams: int, routed_tokens: int, handoff: str) -> tuple[list[list[int]], list[float]]:
    """The plain algorithm: of all one-token extensions of the beams, keep the likeliest."""
    sequences, scores = prompt, torch.zeros(1)
    for _ in range(NEW):
        steps = next_logits(slow, sequences, prompt.shape[1], routed_tokens, handoff).log_softmax(-1)
        totals = (scores[:, None] + steps).flatten()
        scores, chosen = totals.topk(beams)
        sequences = torch.cat([sequences[chosen // steps.shape[1]], (chosen % steps.shape[1])[:, None]], dim=1)
    return sequences[:, prompt.shape[1] :].tolist(), (scores / NEW).tolist()


@both_handoffs
@pytest.mark.parametrize("routed_tokens", [0, 1, 3, NEW])
def test_beam_search(pair, routed_tokens, handoff):
    model, slow = pair
    options = {"num_beams": 4, "num_return_sequences": 4, "do_sample": False, "max_new_tokens": NEW}
    output = model.generate(
        PROMPT, routed_tokens=routed_tokens, handoff=handoff, return_dict_in_generate=True, output_scores=True, **options
    )
    answers, scores = beam_search(slow, PROMPT, 4, routed_tokens, handoff)
    assert output.sequences[:, 10:].tolist() == answers
    torch.testing.assert_close(output.sequences_scores, torch.tensor(scores), atol=1e-4, rtol=1e-4)


@both_handoffs
def test_beam_search_in_a_padded_batch(pair, handoff):
    model, slow = pair
    ids = torch.cat([PROMPT, torch.cat([torch.zeros(1, 6, dtype=torch.long), OTHER], dim=1)])
    options = {"num_beams": 3, "do_sample": False, "max_new_tokens": NEW, "routed_tokens": 3, "handoff": handoff}
    output = model.generate(ids, attention_mask=(ids != 0).long(), **options)
    for row, prompt in enumerate((PROMPT, OTHER)):
        assert output[row, 10:].tolist() == beam_search(slow, prompt, 3, 3, handoff)[0][0]
    assert model.prompt_scores.shape == (2,)


def test_routing_throughout_and_not_at_all_are_hugging_face_s_beam_search(pair):
    """The whole of Hugging Face's own beam search, run on the slow model."""
    model, slow = pair
    options = {"num_beams": 4, "do_sample": False, "max_new_tokens": NEW, "length_penalty": 0.7, "num_return_sequences": 2}
    for routed_tokens, routed in ((NEW, True), ("all", True), (0, False)):
        slow.route(routed)
        expected = slow.model.generate(PROMPT, eos_token_id=11, pad_token_id=0, **options)
        found = model.generate(PROMPT, eos_token_id=11, pad_token_id=0, routed_tokens=routed_tokens, **options)
        assert torch.equal(found, expected)


@both_handoffs
@pytest.mark.parametrize("rows", [1, 3])
def test_sampling(pair, rows, handoff):
    model, slow = pair
    torch.manual_seed(11)
    output = model.generate(
        PROMPT, do_sample=True, temperature=1.3, top_k=0, max_new_tokens=NEW, num_return_sequences=rows, routed_tokens=3, handoff=handoff
    )
    torch.manual_seed(11)
    sequences = PROMPT.repeat(rows, 1)
    for _ in range(NEW):
        probabilities = (next_logits(slow, sequences, 10, 3, handoff) / 1.3).softmax(-1)
        sequences = torch.cat([sequences, torch.multinomial(probabilities, 1)], dim=1)
    assert torch.equal(output, sequences)
    assert model.prompt_scores.shape == (1,)


def test_sampling_filters_are_hugging_face_s(pair):
    model, slow = pair
    options = {"do_sample": True, "temperature": 0.9, "top_k": 12, "top_p": 0.8, "repetition_penalty": 1.2, "max_new_tokens": NEW}
    slow.route(True)
    torch.manual_seed(5)
    expected = slow.model.generate(PROMPT, **options)
    torch.manual_seed(5)
    assert torch.equal(model.generate(PROMPT, routed_tokens="all", **options), expected)
