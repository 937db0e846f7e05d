"""What the base model's second reading costs, by the first routed layer: the layers below it read nothing twice.

Ways take turns, and share one base model's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.findings import Finding
from benchmarks.models import Shape, make_base, make_routed, random_prompt
from benchmarks.timing import interleaved, medians
from mogu import MoguModel
from mogu.modeling.config import Handoff
from mogu.modeling.shared_weights import share_weights

ROUTED_TOKENS = 5
HANDOFFS: tuple[Handoff, ...] = ("continue", "recompute")


@dataclass(frozen=True)
class RereadingPlan:
    """How much is measured.

    Args:
        prompt: tokens of it.
        firsts: first routed layers, as shares of all layers.
        rounds: how often each way is timed.
    """

    prompt: int
    firsts: Sequence[float]
    rounds: int


FULL_PLAN = RereadingPlan(prompt=512, firsts=(0.0, 0.25, 0.5, 0.75), rounds=15)
QUICK_PLAN = RereadingPlan(prompt=16, firsts=(0.0, 0.5), rounds=2)


def measure_rereading(plan: RereadingPlan, shape: Shape, device: torch.device, dtype: torch.dtype) -> tuple[list[Finding], dict[str, Any]]:
    """Findings, and every timing behind them."""
    base: Any = make_base(shape, device, dtype)
    firsts = [round(share * shape.layers) for share in plan.firsts]
    models = {first: make_routed(share_weights(base), layers=list(range(first, shape.layers))) for first in firsts}
    prompt = random_prompt(shape, plan.prompt, device)
    ids = torch.cat([prompt, prompt[:, :ROUTED_TOKENS]], dim=1)
    ways: dict[str, Callable[[], object]] = {"prefill": lambda: _read(base, ids)}
    for first, model in models.items():
        for handoff in HANDOFFS:
            ways[f"{handoff} {first}"] = _opening(model, prompt, handoff)
    interleaved(ways, 1, device)
    seconds = interleaved(ways, plan.rounds, device)
    middle = medians(seconds)
    findings = []
    for first in firsts:
        # Both make the same passes but for the second reading, whose place in `continue` a pass over one token takes.
        extra = middle[f"recompute {first}"] - middle[f"continue {first}"]
        findings.append(
            Finding(
                "second reading",
                f"routed from layer {first} of {shape.layers}, {plan.prompt} + {ROUTED_TOKENS} tokens",
                extra / middle["prefill"],
                "× base prefill",
                note=f"{1000 * extra:.0f} ms, prefill {1000 * middle['prefill']:.0f} ms",
            )
        )
    return findings, {"prompt_tokens": plan.prompt, "seconds": seconds}


@torch.no_grad()
def _read(base: Any, ids: Tensor) -> object:
    return base(input_ids=ids, use_cache=True, logits_to_keep=1)


def _opening(model: MoguModel, prompt: Tensor, handoff: Handoff) -> Callable[[], object]:
    """An answer that ends with the first token after the opening."""
    length: dict[str, Any] = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": ROUTED_TOKENS + 1, "do_sample": False}
    return lambda: model.generate(prompt, handoff=handoff, routed_tokens=ROUTED_TOKENS, **length)
