"""Padded batches of examples, in which the answers to one prompt share one pass over it.

A row of the *shared* layout is ``prompt answer₀ answer₁``: both answers see the prompt and themselves, but not each other,
and both count their positions from the end of the prompt. Models that cannot handle such a mask get the *separate*
layout, a row for each answer. Knows token ids; knows nothing of models or losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mogu.training.examples import AnyExample, Example, TurnsExample

Layout = Literal["shared", "separate"]
IGNORED = -100
PADDING = -1


@dataclass(frozen=True)
class Collator:
    """Makes a batch of examples.

    Args:
        pad_token_id: fills up rows; it is never attended to and never counts.
        layout: ``"shared"`` or ``"separate"``, as described above.
    """

    pad_token_id: int
    layout: Layout

    def __call__(self, examples: Sequence[AnyExample]) -> dict[str, Tensor]:
        """Make one batch.

        Returns:
            ``input_ids [rows, tokens]``; ``segments [rows, tokens]``: 0 in the prompt, 1 + answer in an answer, -1 in
            padding; ``position_ids [rows, tokens]``; for each row its answer tokens: ``predictors [rows, n]``, where each
            is predicted from, ``targets [rows, n]`` (-100 is none), ``answers [rows, n]``, which answer it belongs to; and
            ``malicious [rows]``.
        """
        rows = [row for example in examples for row in self._rows(example)]
        return {
            "input_ids": _pad([row.ids for row in rows], self.pad_token_id),
            "segments": _pad([row.segments for row in rows], PADDING),
            "position_ids": _pad([row.positions for row in rows], 0),
            "predictors": _pad([row.predictors for row in rows], 0),
            "targets": _pad([row.targets for row in rows], IGNORED),
            "answers": _pad([row.answers for row in rows], 0),
            "malicious": torch.tensor([row.malicious for row in rows]),
        }

    def row_lengths(self, example: AnyExample) -> list[int]:
        """Tokens of each row that an example becomes, in the order of the batch's rows."""
        if isinstance(example, TurnsExample):
            return [len(example)]
        return [len(example)] if self.layout == "shared" else [len(example.prompt) + len(answer) for answer in example.answers]

    def _rows(self, example: AnyExample) -> list[_Row]:
        if isinstance(example, TurnsExample):
            return [_row_of_turns(example)]
        numbered = list(enumerate(example.answers))
        groups = [numbered] if self.layout == "shared" else [[answer] for answer in numbered]
        return [_row(example, group) for group in groups]


@dataclass
class _Row:
    ids: list[int]
    segments: list[int]
    positions: list[int]
    predictors: list[int]
    targets: list[int]
    answers: list[int]
    malicious: bool


def _row(example: Example, answers: Sequence[tuple[int, tuple[int, ...]]]) -> _Row:
    length = len(example.prompt)
    row = _Row(list(example.prompt), [0] * length, list(range(length)), [], [], [], example.malicious)
    for number, answer in answers:
        start = len(row.ids)
        row.predictors += [length - 1, *range(start, start + len(answer) - 1)]
        row.targets += answer
        row.answers += [number] * len(answer)
        row.ids += answer
        row.segments += [1 + number] * len(answer)
        row.positions += range(length, length + len(answer))
    return row


def _row_of_turns(example: TurnsExample) -> _Row:
    # All learned turns count as one answer: the loss of an example is the mean over their tokens.
    learned = set(example.learned)
    return _Row(
        ids=list(example.ids),
        segments=[int(index in learned) for index in range(len(example.ids))],
        positions=list(range(len(example.ids))),
        predictors=[index - 1 for index in example.learned],
        targets=[example.ids[index] for index in example.learned],
        answers=[0] * len(example.learned),
        malicious=False,
    )


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(len(row) for row in rows)
    padded = torch.full((len(rows), longest), value, dtype=torch.long)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return padded


def attention_mask(segments: Tensor, layout: Layout, dtype: torch.dtype) -> Tensor:
    """Make the attention mask of a batch.

    Args:
        segments: ``[rows, tokens]``, as :class:`Collator` makes them.
        layout: ``"separate"`` gives a mask of ones ``[rows, tokens]``: padding is on the right, so causal attention alone hides
            it, and padding that sees real tokens never turns to NaN, as it would if a sliding window left it nothing to see;
            ``"shared"`` gives an additive mask ``[rows, 1, tokens, tokens]``, 0 for the tokens that are seen, which are the
            earlier ones of the prompt and of the token's own answer.
        dtype: type of the additive mask: the model's.
    """
    if layout == "separate":
        return torch.ones_like(segments)
    tokens = segments.shape[1]
    earlier = torch.ones(tokens, tokens, dtype=torch.bool, device=segments.device).tril()
    same = segments.unsqueeze(2) == segments.unsqueeze(1)
    of_prompt = (segments == 0).unsqueeze(1)
    # Padding sees the padding before it: a row that sees nothing would turn to NaN.
    seen = earlier & (same | (of_prompt & (segments != PADDING).unsqueeze(2)))
    return torch.zeros(seen.shape, dtype=dtype, device=segments.device).masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(1)
