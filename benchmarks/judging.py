"""Time the refusal classifier on replies as short as they were written, and as long as a chat model's.

Knows no model: the classifier reads text. The replies are those that were written to fit it, whose authors are this project's.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.findings import Finding
from benchmarks.models import LlamaShape
from benchmarks.timing import interleaved
from mogu.refusals import classify_refusal

REPLIES = Path(__file__).resolve().parents[1] / "experiments" / "refusal_replies.jsonl"
LIMIT_MS = 2.0


@dataclass(frozen=True)
class JudgingPlan:
    """How much is measured.

    Args:
        replies: number of replies of each length.
        words: the least number of words of a long one.
        rounds: number of timings of each reply.
    """

    replies: int
    words: int
    rounds: int


FULL_PLAN = JudgingPlan(replies=200, words=200, rounds=5)
QUICK_PLAN = JudgingPlan(replies=4, words=200, rounds=2)


def measure_judging(
    plan: JudgingPlan, _shape: LlamaShape, _device: torch.device, _dtype: torch.dtype
) -> tuple[list[Finding], dict[str, Any]]:
    """Return findings, and the seconds of each reply."""
    rows = [json.loads(line) for line in REPLIES.read_text(encoding="utf-8").splitlines()][: plan.replies]
    written = [row["reply"] for row in rows]
    findings, details = [], {}
    for case, replies in {"as written": written, f"{plan.words} words": long_replies(written, plan.words)}.items():
        judging = {str(place): partial(classify_refusal, rows[place]["prompt"], reply) for place, reply in enumerate(replies)}
        times = interleaved(judging, plan.rounds, torch.device("cpu"))
        seconds = [statistics.median(one) for one in times.values()]
        length = statistics.median(len(reply.split()) for reply in replies)
        findings.append(
            Finding(
                "refusal classifier, a reply",
                case,
                statistics.median(seconds) * 1000,
                "ms",
                at_most=LIMIT_MS,
                note=f"median of {len(replies)} replies of {length:g} words; slowest {max(seconds) * 1000:.2f} ms",
            )
        )
        details[case] = seconds
    return findings, details


def long_replies(texts: Sequence[str], words: int) -> list[str]:
    """Return each text followed by those behind it, in a circle, until it has at least so many words."""
    replies = []
    for start in range(len(texts)):
        reply, following = texts[start], start
        while len(reply.split()) < words:
            following = (following + 1) % len(texts)
            reply += f"\n\n{texts[following]}"
        replies.append(reply)
    return replies
