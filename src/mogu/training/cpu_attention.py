"""Attention by plain matrix products while a CPU trains in half precision, in which PyTorch's fused attention is slow there.

The fused one saves memory, which grows with the square of a row's length; rows of training are short. Knows transformers' names of
implementations and a function of losses; knows nothing of what is trained.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from mogu.training.losses import Losses
from mogu.training.training_state import random_states_kept

LONGEST_ROW = 256
"""Tokens. Measured in bfloat16, forward and backward pass together: plain attention takes a third of the time in rows of 100 tokens,
three fifths in rows of 256, and more time than the fused one in rows of 1,024."""

FUSED, PLAIN = "sdpa", "eager"

TOLERANCE = 3e-2
"""Of the losses of a trial: what the rounding of half precision makes of another order of adding up."""

logger = logging.getLogger(__name__)


def pays_off(device: torch.device, dtype: torch.dtype, longest_row: int) -> bool:
    """Whether plain attention is faster than the fused one, and its memory affordable."""
    return device.type == "cpu" and dtype.itemsize == 2 and longest_row <= LONGEST_ROW


@contextmanager
def fastest_attention(model: Any, losses: Losses, batch: dict[str, Tensor], longest_row: int) -> Iterator[None]:
    """Let a model compute its attention in the faster way until the block ends, if a trial shows that its losses stay the same.

    Args:
        model: a causal language model or a wrapper of one (PEFT's or ours).
        losses: the losses of a batch, by way of the model.
        batch: for the trial.
        longest_row: tokens of the longest row to come.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    weight = base.get_input_embeddings().weight
    uses = {config._attn_implementation for config in (base.config, base.config.get_text_config())}
    if uses != {FUSED} or not pays_off(weight.device, weight.dtype, longest_row):
        yield
        return
    expected = _tried(losses, batch)
    try:
        base.set_attn_implementation(PLAIN)
        if not torch.allclose(_tried(losses, batch), expected, rtol=TOLERANCE, atol=TOLERANCE):
            logger.info("Attention stays the fused one: the plain one gives other losses")
            base.set_attn_implementation(FUSED)
        yield
    finally:
        base.set_attn_implementation(FUSED)


@torch.no_grad()
def _tried(losses: Losses, batch: dict[str, Tensor]) -> Tensor:
    with random_states_kept():
        set_seed(0)  # the same dropout in both
        return losses(batch)
