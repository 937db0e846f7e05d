"""A base model's own short answers to plain instructions, for pairs that lack one.

Knows a loaded model and its tokenizer; loads nothing, and knows nothing of records. PyTorch is imported only when answers are made.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ModelAnswers:
    """Answers instructions greedily, in batches.

    Args:
        model: a causal language model, on the device it is to run on.
        tokenizer: its tokenizer, with a chat template.
        max_new_tokens: an answer is cut off here, and then trimmed back to its last full sentence if it has one.
        batch_size: instructions answered at once.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_new_tokens: int = 64, batch_size: int = 8
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size

    def __call__(self, instructions: list[str]) -> list[str]:
        """One answer an instruction, in order; an empty string where the model says nothing.

        Raises:
            ChatTemplateError: the tokenizer has no chat template, or the template fails.
        """
        from mogu.inference.replies import ReplySettings, replies

        made = replies(self.model, self.tokenizer, instructions, ReplySettings(self.max_new_tokens), batch_size=self.batch_size)
        return [reply.text if reply.finished else _whole_sentences(reply.text) for reply in made]


def _whole_sentences(text: str) -> str:
    """A text up to its last full sentence; all of it where none is full. The point behind a list's number ends no sentence."""
    ends = [
        found.end()
        for found in re.finditer(r"[.!?…][\"'”’)\]]*(?=\s|$)|[。！？]", text)
        if not re.search(r"(?:^|\n)\s*\d+\.$", text[: found.end()])
    ]
    return text[: ends[-1]] if ends else text
