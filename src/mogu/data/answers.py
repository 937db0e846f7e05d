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
        from mogu.chat import encode_prompt

        prompts = [encode_prompt(self.tokenizer, instruction) for instruction in instructions]
        # prompts of like length together, so that little of a batch is padding
        by_length = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        answers = [""] * len(prompts)
        for start in range(0, len(by_length), self.batch_size):
            batch = by_length[start : start + self.batch_size]
            for place, answer in zip(batch, self._answer_batch([prompts[place] for place in batch]), strict=True):
                answers[place] = answer
        return answers

    def _answer_batch(self, prompts: list[list[int]]) -> list[str]:
        import torch

        end = self._end_tokens()
        padding = self.tokenizer.pad_token_id if isinstance(self.tokenizer.pad_token_id, int) else min(end, default=0)
        longest = max(map(len, prompts))
        input_ids = torch.tensor([[padding] * (longest - len(prompt)) + prompt for prompt in prompts], device=self.model.device)
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self.model.device)
        with torch.inference_mode():
            output = self.model.generate(  # type: ignore[operator]
                input_ids,
                attention_mask=mask,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=padding,
            )
        return [self._text(row, end) for row in output[:, longest:].tolist()]

    def _text(self, tokens: list[int], end: frozenset[int]) -> str:
        length = next((place for place, token in enumerate(tokens) if token in end), None)
        text = str(self.tokenizer.decode(tokens[:length], skip_special_tokens=True)).strip()
        return text if length is not None else _whole_sentences(text)

    def _end_tokens(self) -> frozenset[int]:
        """The model's own end tokens: its generation settings may name several."""
        settings = self.model.generation_config
        named = (settings.eos_token_id if settings is not None else None) or self.tokenizer.eos_token_id
        return frozenset(named if isinstance(named, list) else [named] if isinstance(named, int) else [])


def _whole_sentences(text: str) -> str:
    """A text up to its last full sentence; all of it where none is full. The point behind a list's number ends no sentence."""
    ends = [
        found.end()
        for found in re.finditer(r"[.!?…][\"'”’)\]]*(?=\s|$)|[。！？]", text)
        if not re.search(r"(?:^|\n)\s*\d+\.$", text[: found.end()])
    ]
    return text[: ends[-1]] if ends else text
