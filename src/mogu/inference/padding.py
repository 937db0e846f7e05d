"""Padding: rows of token ids of different lengths as one tensor. Knows nothing of prompts or of what the model is."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def padding_id(tokenizer: PreTrainedTokenizerBase, model: Any) -> int:
    """What fills rows up; where the tokenizer has no token of its own for that, any does: padding is never seen.

    A padding token that was added to the tokenizer and not to the model's embedding is replaced, and it is said.
    """
    rows = embedding_rows(model)
    problem = padding_problem(tokenizer, rows)
    if problem is not None:
        _warn_once(problem)
    return _usable(tokenizer.pad_token_id, tokenizer.eos_token_id, rows)


def padding_problem(tokenizer: PreTrainedTokenizerBase, rows: int) -> str | None:
    """What is wrong with a tokenizer's padding token for an embedding of so many rows, and what pads instead."""
    pad = tokenizer.pad_token_id
    if not isinstance(pad, int) or pad < rows:
        return None
    instead = _usable(pad, tokenizer.eos_token_id, rows)
    return (
        f"The padding token {tokenizer.pad_token!r} ({pad}) is no row of the model's embedding, which has {rows}: "
        f"{tokenizer.convert_ids_to_tokens(instead)!r} ({instead}) pads instead"
    )


def embedding_rows(model: Any) -> int:
    """How many tokens a model has an embedding of."""
    embeddings = model.get_input_embeddings()
    return int(getattr(embeddings, "num_embeddings", None) or embeddings.weight.shape[0])


def _usable(pad: object, end: object, rows: int) -> int:
    return next((token for token in (pad, end) if isinstance(token, int) and token < rows), 0) if isinstance(pad, int) else 0


@functools.cache
def _warn_once(problem: str) -> None:
    logger.warning("%s.", problem)


def left_pad(prompts: list[list[int]], pad_token_id: int, device: torch.device) -> dict[str, Tensor]:
    """Left-padded ``input_ids`` and ``attention_mask`` ``[batch, longest]`` of token-id lists."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[row, longest - len(prompt) :] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def right_pad(rows: Sequence[Sequence[int]], pad_token_id: int, device: torch.device) -> Tensor:
    """Token-id lists side by side, ``[batch, longest]``, filled up behind their ends."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad_token_id] * (longest - len(row))] for row in rows], device=device)
