"""Streamed replies are the whole replies, token by token, with the probability that one pass over all of it gives each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mogu import MoguModel
from mogu.inference.prompts import encode_prompt
from mogu.inference.replies import ReplySettings, reply_batch
from mogu.inference.streaming import StreamedToken, _Text, stream_replies
from mogu.modeling.gated.model import GatedModel
from tests.gated_models import gated_config

PROMPTS = ["abc", "how many of these are there", "x"]
SETTINGS = ReplySettings(12)
ENDS = [9, 17, 28, 40, 51]


def streamed(model: Any, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], **options: Any) -> tuple[Any, dict[int, Any]]:
    rows: dict[int, list[StreamedToken]] = defaultdict(list)
    replies = stream_replies(model, tokenizer, prompts, SETTINGS, lambda token: rows[token.row].append(token), **options)
    return replies, rows


@pytest.mark.parametrize("count", [1, 3])
def test_tokens_add_up_to_the_replies_of_a_batch(
    make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, count: int
) -> None:
    model = make_base()
    model.generation_config.eos_token_id = ENDS
    prompts = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS[:count]]
    replies, rows = streamed(model, tokenizer, prompts)
    assert replies == reply_batch(model, tokenizer, prompts, SETTINGS)
    assert len({reply.tokens for reply in replies}) == count  # rows that end leave the others behind
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        tokens = rows[row]
        assert len(tokens) == reply.tokens
        assert "".join(token.text for token in tokens).strip() == reply.text
        whole = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0)[0, : len(prompt) + reply.tokens]
        with torch.no_grad():
            given = model(whole[None]).logits[0].softmax(-1)
        expected = [float(given[place - 1, whole[place]]) for place in range(len(prompt), len(whole))]
        assert [token.probability for token in tokens] == pytest.approx(expected, rel=1e-5)


def test_both_sides_of_a_hardened_model_stream_in_one_batch(
    make_gated: Callable[..., Any], make_pair: Callable[..., Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    gated: GatedModel = make_gated("llama", gated_config(careful=None, refuse=0.0))[0]
    routed: MoguModel = make_pair("llama")[0]
    prompt = encode_prompt(tokenizer, PROMPTS[1])
    for model in (gated, routed):
        with model.routing("on", rows=torch.tensor([False, True])):
            replies, rows = streamed(model, tokenizer, [prompt, prompt])
        hardened = reply_batch(model, tokenizer, [prompt], SETTINGS)[0]
        with model.routing("off"):
            base = reply_batch(model, tokenizer, [prompt], SETTINGS)[0]
        assert replies == [base, hardened]
        assert base != hardened
        assert ["".join(token.text for token in rows[row]).strip() for row in (0, 1)] == [base.text, hardened.text]


def test_an_answer_that_is_taken_back_was_never_streamed(make_gated: Callable[..., Any], tokenizer: PreTrainedTokenizerFast) -> None:
    model: GatedModel = make_gated("llama", gated_config(careful=None, refuse=1.0, listen=0.0, hold_back=4))[0]
    model.use_tokenizer(tokenizer)
    prompt = encode_prompt(tokenizer, PROMPTS[1])
    (reply,), rows = streamed(model, tokenizer, [prompt])
    with model.routing("off"):
        base = reply_batch(model, tokenizer, [prompt], SETTINGS)[0]
    assert reply != base
    assert "".join(token.text for token in rows[0]).strip() == reply.text
    assert len(rows[0]) == reply.tokens


def test_all_rows_end_at_the_token_at_which_somebody_stops(
    make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> None:
    model, prompts = make_base(), [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    seen: list[StreamedToken] = []
    replies = stream_replies(model, tokenizer, prompts, SETTINGS, seen.append, stopped=lambda: len(seen) >= 12)
    assert [reply.tokens for reply in replies] == [5, 5, 5]  # the fourth token of three rows is stopped at once it has been said
    assert not any(reply.finished for reply in replies)


def test_a_character_is_shown_when_its_last_byte_is_there() -> None:
    alphabet = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁": 256, "a": 257}
    inner = Tokenizer(models.BPE(alphabet, [], byte_fallback=True))
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    text = _Text(PreTrainedTokenizerFast(tokenizer_object=inner))
    assert [text.add(token) for token in [257, 256, *"é…".encode(), 257]] == ["a", " ", "", "é", "", "", "…", "a"]
