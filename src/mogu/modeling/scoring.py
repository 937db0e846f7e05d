"""The malicious score: how malicious a routed model itself finds prompts, read off its routing weights.

Knows token ids and routing weights; generates nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

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
        batch_size: prompts a pass.

    Returns:
        Scores ``[prompts]``, float32, on the CPU.
    """
    scores = []
    with controller:
        for start in range(0, len(prompts), batch_size):
            batch = left_pad([list(prompt) for prompt in prompts[start : start + batch_size]], pad_token_id, base.device)
            base(**batch, **_prefill_options(base, batch["attention_mask"]))
            scores.append(malicious_score(controller.last_token_weights(base.device)).cpu())
    return torch.cat(scores) if scores else torch.zeros(0)


def _prefill_options(base: Any, attention_mask: Tensor) -> dict[str, Any]:
    options = {
        # Padding on the left: a token's position counts the real tokens before it.
        "position_ids": (attention_mask.cumsum(-1) - 1).clamp(min=0),
        "logits_to_keep": 1,
        "use_cache": False,
    }
    accepted = inspect.signature(base.forward).parameters
    return {name: value for name, value in options.items() if name in accepted}
