"""The malicious score: how malicious a routed model itself finds prompts, read off its routing weights.

Knows token ids and routing weights; generates nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mogu.inference.batches import in_batches
from mogu.inference.padding import left_pad
from mogu.modeling.routing import RoutingController


def malicious_score(weights: Mapping[str, Tensor]) -> Tensor:
    """Compute ``α/(α+β)``, averaged over layers: ``[layers, batch]`` each gives ``[batch]``."""
    return (weights["unwill"] / (weights["unwill"] + weights["glad"])).mean(0)


@torch.no_grad()
def score_prompts(
    base: Any, controller: RoutingController, prompts: Sequence[Sequence[int]], *, pad_token_id: int, batch_size: int
) -> Tensor:
    """Score prompts by the unwill share at their last token; one routed pass a batch.

    Args:
        base: the base model, its layers routed, in evaluation mode.
        controller: of this call, in mode ``"on"``.
        prompts: token ids of each prompt.
        pad_token_id: what fills rows up.
        batch_size: prompts a pass, at most.

    Returns:
        Scores ``[prompts]``, float32, on the CPU.
    """

    def score(indices: list[int]) -> list[float]:
        batch = left_pad([list(prompts[index]) for index in indices], pad_token_id, base.device)
        base(**batch, **prefill_options(base, batch["attention_mask"]))
        return malicious_score(controller.last_token_weights(base.device)).tolist()

    with controller:
        return torch.tensor(in_batches(score, list(map(len, prompts)), most=lambda _: batch_size))


def prefill_options(base: Any, attention_mask: Tensor) -> dict[str, Any]:
    """Options of a pass over prompts that are padded on the left and need neither a cache nor logits but at their last token."""
    options = {
        # Padding on the left: a token's position counts the real tokens before it.
        "position_ids": (attention_mask.cumsum(-1) - 1).clamp(min=0),
        "logits_to_keep": 1,
        "use_cache": False,
    }
    accepted = inspect.signature(base.forward).parameters
    return {name: value for name, value in options.items() if name in accepted}
