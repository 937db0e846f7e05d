"""Measure what a model does with the lab's prompts, by the rules of its world.

Knows prompts, replies and their judge; knows nothing of how the model was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from mogu.evaluation.prompts import EvalPrompt, Outcome
from mogu.inference.replies import ReplySettings, replies
from mogu.lab.grading import judge

MAX_NEW_TOKENS = 48
"""Longer than any answer of the lab's world."""


@dataclass(frozen=True)
class JudgedReply:
    """A prompt, the reply to it, and what the reply did."""

    prompt: EvalPrompt
    reply: str
    verdict: Outcome


def judged_replies(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[EvalPrompt], *, batch_size: int = 32
) -> list[JudgedReply]:
    """Let a model reply to prompts with greedy decoding, and judge each reply."""
    instructions = [prompt.instruction for prompt in prompts]
    made = replies(model, tokenizer, instructions, ReplySettings(MAX_NEW_TOKENS), batch_size=batch_size)
    return [JudgedReply(prompt, reply.text, judge(prompt, reply.text)) for prompt, reply in zip(prompts, made, strict=True)]
