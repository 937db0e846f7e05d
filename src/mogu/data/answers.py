"""Generate a base model's own short answers to plain instructions, for pairs that lack one.

Knows a loaded model and its tokenizer; loads nothing, and knows nothing of records. PyTorch is imported only to generate.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mogu.inference.prompts import Prompt


class ModelAnswers:
    """Answer instructions greedily, under a progress bar on the error stream.

    Args:
        model: a causal language model, on the device that it should run on.
        tokenizer: its tokenizer, with a chat template.
        max_new_tokens: the longest answer; one that is cut off is trimmed to its last complete sentence, if it has one.
        batch_size: answers at a time, at most; fewer where memory is short.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_new_tokens: int = 64, batch_size: int = 64
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size

    def __call__(self, instructions: Sequence[Prompt]) -> list[str]:
        """Return one answer for each instruction or conversation, in order; an empty string if the model says nothing.

        Raises:
            ChatTemplateError: the tokenizer has no chat template, or the template fails.
        """
        from mogu.inference.replies import ReplySettings, replies_with_progress

        answers = replies_with_progress(
            self.model,
            self.tokenizer,
            instructions,
            ReplySettings(self.max_new_tokens),
            batch_size=self.batch_size,
            title="answers",
        )
        return [reply.text if reply.finished else _whole_sentences(reply.text) for reply in answers]


def _whole_sentences(text: str) -> str:
    """Return a text up to its last complete sentence, or all of it if none is; the period of a list's number ends no sentence."""
    ends = [
        match.end()
        for match in re.finditer(r"[.!?…][\"'”’)\]]*(?=\s|$)|[。！？]", text)
        if not re.search(r"(?:^|\n)\s*\d+\.$", text[: match.end()])
    ]
    return text[: ends[-1]] if ends else text
