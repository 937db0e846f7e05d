"""The malicious score: how malicious a routed model itself finds prompts, read off its routing weights.

Knows prompts and routing weights; generates nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mogu.inference.padding import left_pad, padding_id
from mogu.inference.prompts import Prompt, encode_prompt

if TYPE_CHECKING:
    from mogu.modeling.model import MoguModel


def malicious_score(weights: dict[str, Tensor]) -> Tensor:
    """``α/(α+β)``, averaged over layers: ``[layers, batch]`` each gives ``[batch]``."""
    return (weights["unwill"] / (weights["unwill"] + weights["glad"])).mean(0)


@torch.no_grad()
def score_prompts(model: MoguModel, prompts: Sequence[Prompt], batch_size: int) -> Tensor:
    """Scores ``[prompts]``, float32, on the CPU; see :meth:`mogu.MoguModel.score`."""
    ids = [encode_prompt(model.tokenizer, prompt) for prompt in prompts]
    pad = padding_id(model.tokenizer)
    scores = []
    was_training = model.training
    model.eval()
    try:
        with model.routing("on"):
            for start in range(0, len(ids), batch_size):
                batch = left_pad(ids[start : start + batch_size], pad, model.device)
                model.base_model(**batch, **_prefill_options(model, batch["attention_mask"]))
                scores.append(malicious_score(model.last_token_weights()).cpu())
    finally:
        model.train(was_training)
    return torch.cat(scores) if scores else torch.zeros(0)


def _prefill_options(model: MoguModel, attention_mask: Tensor) -> dict[str, Any]:
    options = {
        # Padding on the left: a token's position counts the real tokens before it.
        "position_ids": (attention_mask.cumsum(-1) - 1).clamp(min=0),
        "logits_to_keep": 1,
        "use_cache": False,
    }
    accepted = inspect.signature(model.base_model.forward).parameters
    return {name: value for name, value in options.items() if name in accepted}
