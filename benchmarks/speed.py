"""Time one decoding step and whole replies of the base model, MoGU with both handoffs, and the published procedure.

The base model is a plain Llama that was never wrapped; MoGU shares its weights. All ways run in one process and take turns, in a reply
after every token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.generation.streamers import BaseStreamer

from benchmarks.findings import Finding
from benchmarks.models import Subject, make_base, make_published, make_routed, random_prompt
from benchmarks.published import Published
from benchmarks.timing import Pause, Times, interleaved, median_ratio, medians, taking_turns, whole
from mogu import MoguModel
from mogu.modeling.config import Handoff
from mogu.modeling.shared_weights import share_weights
from mogu.transformers_compat import CACHE, cache_of

MOST = 1.03
ROUTED_TOKENS = 5


@dataclass(frozen=True)
class SpeedPlan:
    """How much is measured.

    Args:
        caches: numbers of tokens in the cache of a decoding step.
        steps: decoding steps of each model.
        replies: prompt tokens and new tokens of a reply.
        rounds: number of such replies of each way.
    """

    caches: Sequence[int]
    steps: int
    replies: Sequence[tuple[int, int]]
    rounds: int


FULL_PLAN = SpeedPlan(caches=(128, 1024), steps=200, replies=((128, 64), (128, 256), (1024, 64), (1024, 256)), rounds=3)
QUICK_PLAN = SpeedPlan(caches=(16,), steps=20, replies=((16, 8), (32, 8)), rounds=2)


def measure_speed(plan: SpeedPlan, shape: Subject, device: torch.device, dtype: torch.dtype) -> tuple[list[Finding], dict[str, Any]]:
    """Return findings, and every timing behind them."""
    base = make_base(shape, device, dtype)
    routed = make_routed(share_weights(base))
    published = make_published(base)
    findings: list[Finding] = []
    steps, replies = [], []
    for cache in plan.caches:
        times = time_steps(base, routed, random_prompt(shape, cache, device), plan.steps)
        findings.append(_step_finding(cache, times))
        steps.append({"cache_tokens": cache, "seconds": times})
    for prompt_tokens, new_tokens in plan.replies:
        prompt = random_prompt(shape, prompt_tokens, device)
        measured = _time_replies(base, published, prompt, new_tokens, plan.rounds)
        findings += _reply_findings(prompt_tokens, new_tokens, measured["seconds"])
        replies.append({"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, **measured})
    findings += _structural_findings(replies, exact=dtype == torch.float32)
    return findings, {"steps": steps, "replies": replies}


@torch.no_grad()
def time_steps(base: nn.Module, routed: MoguModel, prompt: Tensor, repetitions: int) -> Times:
    """Time single decoding steps of both models, with routing on, each with the prompt in a cache of its own."""

    def stepper(model: Any) -> Callable[[], object]:
        cache = cache_of(model(input_ids=prompt, use_cache=True, logits_to_keep=1))
        token = prompt[:, -1:]

        def step() -> None:
            model(input_ids=token, use_cache=True, logits_to_keep=1, **{CACHE: cache})
            cache.crop(-1)  # every step sees the same length

        return step

    ways = {"base": stepper(base), "routed": stepper(routed)}
    interleaved(ways, max(3, repetitions // 10), prompt.device)
    return interleaved(ways, repetitions, prompt.device)


def _time_replies(base: Any, published: Published, prompt: Tensor, new_tokens: int, rounds: int) -> dict[str, Any]:
    # Each handoff has a model of its own on the same weights, because the two are in different modes at the same time.
    routed = {"continue": make_routed(share_weights(base)), "recompute": make_routed(share_weights(base))}
    models = (base.model, published.routed.model, *(model.base_model.model for model in routed.values()))
    prefills: dict[str, int] = {}
    for name, way in reply_ways(base, routed, published.generate, prompt, ROUTED_TOKENS + 2).items():  # also warms up
        with counted_prefills(models) as lengths:
            way(None)
        prefills[name] = len(lengths)
    tokens: dict[str, list[int]] = {}

    def kept(name: str, way: ReplyWay) -> Callable[[Pause], None]:
        def reply(pause: Pause) -> None:
            tokens[name] = way(EachToken(pause))[0, prompt.shape[1] :].tolist()

        return reply

    ways = {name: kept(name, way) for name, way in reply_ways(base, routed, published.generate, prompt, new_tokens).items()}
    prefill = _prefill(base, torch.cat([prompt, prompt[:, :ROUTED_TOKENS]], dim=1))
    prefill()
    seconds: dict[str, list[list[float]]] = {name: [] for name in [*ways, "prefill"]}
    for _ in range(rounds):
        turns = taking_turns({**ways, "prefill": lambda _: prefill()}, prompt.device)
        for name, taken in turns.items():
            seconds[name].append(taken)
    return {"seconds": seconds, "prefills": prefills, "tokens": tokens}


class EachToken(BaseStreamer):
    """Call a function for every token that ``generate`` streams."""

    def __init__(self, pause: Pause) -> None:
        self.pause = pause

    def put(self, value: Tensor) -> None:
        self.pause()

    def end(self) -> None:
        pass


ReplyWay = Callable[[BaseStreamer | None], Tensor]


def reply_ways(
    base: Any, routed: Mapping[str, MoguModel], published: Callable[[Tensor, int, Any], Tensor], prompt: Tensor, new_tokens: int
) -> dict[str, ReplyWay]:
    """Return the ways to reply greedily to a prompt ``[1, tokens]``; each takes a streamer and returns prompt and reply.

    Args:
        base: the base model.
        routed: the routed model to use for each handoff.
        published: ``generate`` of the published procedure.
        prompt: token ids.
        new_tokens: length of the reply.
    """
    greedy = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": new_tokens, "do_sample": False}

    def by_handoff(handoff: Handoff) -> ReplyWay:
        return lambda streamer: routed[handoff].generate(prompt, handoff=handoff, routed_tokens=ROUTED_TOKENS, streamer=streamer, **greedy)

    return {
        "base": lambda streamer: base.generate(prompt, streamer=streamer, **greedy),
        "continue": by_handoff("continue"),
        "recompute": by_handoff("recompute"),
        "published": lambda streamer: published(prompt, new_tokens, streamer),
    }


def _prefill(base: Any, ids: Tensor) -> Callable[[], object]:
    @torch.no_grad()
    def prefill() -> object:
        return base(input_ids=ids, use_cache=True, logits_to_keep=1)

    return prefill


@contextmanager
def counted_prefills(models: Sequence[nn.Module]) -> Iterator[list[int]]:
    """Collect the lengths of all forward passes over more than one token, of decoders without their heads."""
    lengths: list[int] = []

    def note(_: nn.Module, __: Any, kwargs: dict[str, Any]) -> None:
        length = kwargs["input_ids"].shape[1]
        if length > 1:
            lengths.append(length)

    handles = [model.register_forward_pre_hook(note, with_kwargs=True) for model in models]
    try:
        yield lengths
    finally:
        for handle in handles:
            handle.remove()


def _step_finding(cache: int, times: Times) -> Finding:
    middle = medians(times)
    note = f"base {1000 * middle['base']:.1f} ms, routed {1000 * middle['routed']:.1f} ms"
    return Finding(
        "decoding step, routing on", f"{cache} in cache", median_ratio(times, "routed", "base"), "× base", at_most=MOST, note=note
    )


def _reply_findings(prompt_tokens: int, new_tokens: int, rounds: dict[str, list[list[float]]]) -> list[Finding]:
    case = f"{prompt_tokens} + {new_tokens} tokens"
    seconds = {name: whole(turns) for name, turns in rounds.items()}
    times_base = {name: total / seconds["base"] for name, total in seconds.items()}
    note = {name: f"{total:.2f} s" for name, total in seconds.items()}
    return [
        Finding(
            "reply, continue",
            case,
            times_base["continue"],
            "× base",
            MOST,
            note=f"{note['continue']}, base {note['base']}",
        ),
        Finding(
            "reply, recompute, less one base prefill",
            case,
            times_base["recompute"] - times_base["prefill"],
            "× base",
            MOST,
            note=f"{note['recompute']}, prefill {note['prefill']}",
        ),
        Finding("reply, recompute, whole", case, times_base["recompute"], "× base"),
        Finding("reply, published procedure", case, times_base["published"], "× base", note=note["published"]),
    ]


def _structural_findings(replies: Sequence[dict[str, Any]], *, exact: bool) -> list[Finding]:
    extra = {
        way: max(reply["prefills"][way] - reply["prefills"]["base"] for reply in replies) for way in ("continue", "recompute", "published")
    }
    # Two ways of summing agree on every token only if rounding is fine enough.
    same = sum(reply["tokens"]["recompute"] == reply["tokens"]["published"] for reply in replies)
    return [
        Finding("prefills beyond the base's", "continue", extra["continue"], at_most=0),
        Finding("prefills beyond the base's", "recompute", extra["recompute"], at_most=1),
        Finding("prefills beyond the base's", "published procedure", extra["published"]),
        Finding(
            "replies equal token by token", "recompute and published", same, f"of {len(replies)}", at_least=len(replies) if exact else None
        ),
    ]
