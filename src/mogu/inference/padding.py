"""Padding: rows of token ids of different lengths as one tensor. Knows nothing of prompts or of what the model is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills rows up; where the tokenizer has no token of its own for that, any does: padding is never seen."""
    pad = tokenizer.pad_token_id
    return pad if isinstance(pad, int) else 0


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
