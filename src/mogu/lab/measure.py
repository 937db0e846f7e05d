"""Measure what a model does with the lab's prompts, which name the lab's own judge.

Knows how long the lab's answers are; knows nothing of how the model was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from mogu.evaluation import side_by_side
from mogu.evaluation.prompts import EvalPrompt
from mogu.evaluation.side_by_side import JudgedReply

MAX_NEW_TOKENS = 48
"""Longer than any answer of the lab's world."""


def judged_replies(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[EvalPrompt], *, batch_size: int = 32
) -> list[JudgedReply]:
    """Let a model reply to prompts with greedy decoding, and judge each reply."""
    return side_by_side.judged_replies(model, tokenizer, prompts, max_new_tokens=MAX_NEW_TOKENS, batch_size=batch_size)
