"""Greedy replies to many prompts, in batches of like length.

Knows models and tokenizers; knows nothing of what the prompts are for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from mogu.chat import Conversation, encode_prompt
from mogu.generation import left_pad


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Args:
        text: the reply, special tokens and outer white space removed.
        tokens: how many tokens it has, its end not counted.
        finished: whether the model ended it itself; otherwise the token limit did.
    """

    text: str
    tokens: int
    finished: bool


@torch.no_grad()
def greedy_replies(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Conversation],
    *,
    max_new_tokens: int,
    batch_size: int = 8,
    advance: Callable[[int], None] | None = None,
) -> list[Reply]:
    """Let a model reply to prompts; replies come in the prompts' order and do not depend on the batch size.

    Args:
        model: a base model or a routed one, in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        prompts: instructions or conversations.
        max_new_tokens: tokens of each reply, at most.
        batch_size: replies at a time.
        advance: is told how many replies each batch brought.

    Raises:
        ChatTemplateError: the tokenizer has no chat template, or the template fails.
    """
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    # Prompts of like length together, so that little of a batch is padding.
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    end = _end_tokens(model, tokenizer)
    pad = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else min(end, default=0)
    replies: dict[int, Reply] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = left_pad([encoded[index] for index in chosen], pad, model.device)
        output = model.generate(
            **batch, max_new_tokens=max_new_tokens, do_sample=False, temperature=None, top_p=None, top_k=None, pad_token_id=pad
        )
        for index, tokens in zip(chosen, output[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            length = next((place for place, token in enumerate(tokens) if token in end), None)
            text = str(tokenizer.decode(tokens[:length], skip_special_tokens=True)).strip()
            replies[index] = Reply(text, len(tokens) if length is None else length, length is not None)
        if advance is not None:
            advance(len(chosen))
    return [replies[index] for index in range(len(prompts))]


def _end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    # The model's own end tokens: its generation settings may name several.
    settings = model.generation_config
    named = (settings.eos_token_id if settings is not None else None) or tokenizer.eos_token_id
    return frozenset(named if isinstance(named, list) else [named] if isinstance(named, int) else [])
