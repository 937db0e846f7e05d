"""What a base model and its hardened form make of the same prompts, side by side, and how long their replies take.

Knows prompts, their judges and models; knows nothing of how a model was made, nor of how results are shown.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from mogu.evaluation.prompts import Category, EvalPrompt, Outcome
from mogu.inference.padding import left_pad, padding_id
from mogu.inference.prompts import encode_prompt
from mogu.inference.replies import ReplySettings, replies_with_progress
from mogu.modeling.model import MoguModel
from mogu.modeling.notebook import table


@dataclass(frozen=True)
class JudgedReply:
    """A prompt, the reply to it, and what the reply did."""

    prompt: EvalPrompt
    reply: str
    verdict: Outcome


@dataclass(frozen=True)
class Overhead:
    """Time of one reply, as medians over prompts and rounds, in seconds.

    Args:
        base: of the base model.
        mogu: of the hardened model, by handoff; of a gated one, which has none, as ``"gated"``.
    """

    base: float
    mogu: dict[str, float]


@dataclass(frozen=True)
class SideBySide:
    """Two models on the same prompts.

    Args:
        base: judged replies of the base model.
        mogu: of the hardened model, in the same order.
        overhead: time of a reply.
    """

    base: list[JudgedReply]
    mogu: list[JudgedReply]
    overhead: Overhead

    def rates(self) -> dict[Category, dict[str, float]]:
        """For each category, the share of right replies of the base model and of MoGU, and the number of prompts."""
        table: dict[Category, dict[str, float]] = {}
        for category in dict.fromkeys(reply.prompt.category for reply in self.base):
            row: dict[str, float] = {}
            for name, judged in (("base", self.base), ("mogu", self.mogu)):
                right = [reply.verdict == reply.prompt.expected for reply in judged if reply.prompt.category == category]
                row[name] = sum(right) / len(right)
                row["prompts"] = len(right)
            table[category] = row
        return table

    def _repr_html_(self) -> str:
        rows = [
            (category.replace("_", " "), f"{row['base']:.0%}", f"{row['mogu']:.0%}", f"{row['prompts']:.0f}")
            for category, row in self.rates().items()
        ]
        return table(("right replies", "base model", "MoGU", "prompts"), rows)

    def pairs(self, category: Category) -> list[tuple[JudgedReply, JudgedReply]]:
        """What both models replied to the prompts of a category, in their order."""
        return [pair for pair in zip(self.base, self.mogu, strict=True) if pair[0].prompt.category == category]


def compare_replies(
    model: MoguModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[EvalPrompt],
    *,
    timed: Sequence[EvalPrompt],
    rounds: int = 3,
    max_new_tokens: int,
    batch_size: int,
) -> SideBySide:
    """Let a hardened model and its base reply to prompts, greedily, and judge and time the replies.

    Args:
        model: the hardened model; with routing off it is its base.
        tokenizer: its tokenizer.
        prompts: what to ask.
        timed: prompts to time replies to, one at a time.
        rounds: how often each of them is.
        max_new_tokens: tokens of each judged reply.
        batch_size: replies at a time.
    """
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    mogu = judged_replies(model, tokenizer, prompts, title="replies of the hardened model", **settings)
    with model.routing("off"):
        base = judged_replies(model, tokenizer, prompts, title="replies of the base model", **settings)
    return SideBySide(base, mogu, reply_times(model, tokenizer, timed, rounds=rounds))


def judged_replies(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[EvalPrompt],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    title: str = "replies",
) -> list[JudgedReply]:
    """Let a model reply to prompts with greedy decoding, and judge each reply as its prompt says."""
    conversations = [list(prompt.conversation) for prompt in prompts]
    settings = ReplySettings(max_new_tokens)
    made = replies_with_progress(model, tokenizer, conversations, settings, batch_size=batch_size, title=title)
    return [JudgedReply(prompt, reply.text, prompt.outcome(reply.text)) for prompt, reply in zip(prompts, made, strict=True)]


def reply_times(
    model: MoguModel, tokenizer: PreTrainedTokenizerBase, timed: Sequence[EvalPrompt], *, rounds: int = 3, tokens: int = 48
) -> Overhead:
    """Time replies of a fixed length, one prompt at a time, with base model and handoffs taking turns."""
    handoffs: dict[str, dict[str, Any]] = {"recompute": {"handoff": "recompute"}, "continue": {"handoff": "continue"}}
    ways: dict[str, dict[str, Any]] = {"base": {}, **(handoffs if model.mogu_config.gate is None else {"gated": {}})}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    fixed: dict[str, Any] = {
        "min_new_tokens": tokens,
        "max_new_tokens": tokens,
        "do_sample": False,
        "pad_token_id": padding_id(tokenizer, model),
    }
    for _ in range(rounds):
        for prompt in timed:
            batch: dict[str, Any] = left_pad([encode_prompt(tokenizer, prompt.instruction)], 0, torch.device(model.device))
            for way, options in ways.items():
                with model.routing("off" if way == "base" else "on"):
                    started = time.perf_counter()
                    model.generate(**batch, **fixed, **options)
                    seconds[way].append(time.perf_counter() - started)
    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    return Overhead(medians.pop("base"), medians)
