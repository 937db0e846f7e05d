"""Time what a gate costs a benign request: the time to its first token, and each token after it, with the gate alone and while listening.

The base model is plain and was never wrapped; gated models share its weights, and none of their gates flags anything. All ways take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.findings import Finding
from benchmarks.models import Subject, make_base, make_gated, random_prompt
from benchmarks.speed import EachToken
from benchmarks.timing import Pause, interleaved, median_ratio, medians, taking_turns, whole
from mogu.modeling.shared_weights import share_weights

MOST_FIRST, MOST_DECODING = 1.02, 1.01


@dataclass(frozen=True)
class GatedPlan:
    """How much is measured.

    Args:
        prompts: tokens of the prompts.
        first_tokens: how often the first token of each is timed.
        new_tokens: tokens of a reply.
        rounds: number of such replies of each way.
    """

    prompts: Sequence[int]
    first_tokens: int
    new_tokens: int
    rounds: int


FULL_PLAN = GatedPlan(prompts=(64, 512), first_tokens=25, new_tokens=64, rounds=3)
QUICK_PLAN = GatedPlan(prompts=(16,), first_tokens=3, new_tokens=8, rounds=2)


def measure_gated(plan: GatedPlan, subject: Subject, device: torch.device, dtype: torch.dtype) -> tuple[list[Finding], dict[str, Any]]:
    """Return findings, and every timing behind them."""
    base = make_base(subject, device, dtype)
    models: dict[str, Any] = {
        "base": share_weights(base),  # a copy as the others are: where objects lie in memory is worth some percent
        "gate": make_gated(share_weights(base), listens=False),
        "listening": make_gated(share_weights(base), listens=True),
    }
    findings: list[Finding] = []
    details: list[dict[str, Any]] = []
    for tokens in plan.prompts:
        prompt = random_prompt(subject, tokens, device)
        greedy = {"attention_mask": torch.ones_like(prompt), "do_sample": False, "pad_token_id": 0}

        def first(model: Any, prompt: Any = prompt, greedy: Any = greedy) -> Callable[[], object]:
            return lambda: model.generate(prompt, max_new_tokens=1, **greedy)

        firsts = {name: first(model) for name, model in models.items()}
        interleaved(firsts, 2, device)  # warms up
        seconds = interleaved(firsts, plan.first_tokens, device)
        middle = medians(seconds)

        def reply(model: Any, prompt: Any = prompt, greedy: Any = greedy) -> Callable[[Pause], None]:
            return lambda pause: model.generate(prompt, max_new_tokens=plan.new_tokens, streamer=EachToken(pause), **greedy)

        turns: dict[str, list[list[float]]] = {name: [] for name in models}
        for _ in range(plan.rounds):
            for name, taken in taking_turns({name: reply(model) for name, model in models.items()}, device).items():
                # The first turn ends with the prompt, the second with the first token: what follows is decoding.
                turns[name].append(taken[2 : plan.new_tokens])
        decoding = {name: whole(rounds) for name, rounds in turns.items()}
        for name in ("gate", "listening"):
            first_note = f"{1000 * middle[name]:.1f} ms, base {1000 * middle['base']:.1f} ms"
            case = f"{name}, {tokens} tokens"
            findings += [
                Finding("first token, benign", case, median_ratio(seconds, name, "base"), "× base", MOST_FIRST, note=first_note),
                Finding("decoding, benign", case, decoding[name] / decoding["base"], "× base", MOST_DECODING),
            ]
        details.append({"prompt_tokens": tokens, "first_token": seconds, "decoding": turns})
    return findings, {"replies": details}
