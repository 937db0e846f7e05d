"""Padded batches of examples, in which the answers of one prompt share one pass over it.

A row of the *shared* layout is ``prompt answer₀ answer₁``: both answers see the prompt and themselves, not each other,
and both count their positions from the end of the prompt. Models that do not take such a mask get the *separate*
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
        pad_token_id: what fills rows up; it is never attended to and never counts.
        layout: see the module.
    """

    pad_token_id: int
    layout: Layout

    def __call__(self, features: Sequence[dict[str, object]]) -> dict[str, Tensor]:
        """Batch the items of an :class:`ExampleDataset`.

        Returns:
            ``input_ids [rows, tokens]``; ``segments [rows, tokens]``: 0 in the prompt, 1 + answer in an answer, -1 in
            padding; ``position_ids [rows, tokens]``; for each row its answer tokens: ``predictors [rows, n]``, where each
            is predicted from, ``targets [rows, n]`` (-100 is none), ``answers [rows, n]``, which answer it belongs to;
            ``examples [rows]``, index in the data set, ``malicious [rows]``.
        """
        rows = [row for feature in features for row in self._rows(feature)]
        return {
            "input_ids": _pad([row.ids for row in rows], self.pad_token_id),
            "segments": _pad([row.segments for row in rows], PADDING),
            "position_ids": _pad([row.positions for row in rows], 0),
            "predictors": _pad([row.predictors for row in rows], 0),
            "targets": _pad([row.targets for row in rows], IGNORED),
            "answers": _pad([row.answers for row in rows], 0),
            "examples": torch.tensor([row.example for row in rows]),
            "malicious": torch.tensor([row.malicious for row in rows]),
        }

    def _rows(self, feature: dict[str, object]) -> list[_Row]:
        example, index = feature["example"], feature["index"]
        assert isinstance(index, int)
        if isinstance(example, TurnsExample):
            return [_row_of_turns(example, index)]
        assert isinstance(example, Example)
        numbered = list(enumerate(example.answers))
        groups = [numbered] if self.layout == "shared" else [[one] for one in numbered]
        return [_row(example, index, group) for group in groups]


@dataclass
class _Row:
    ids: list[int]
    segments: list[int]
    positions: list[int]
    predictors: list[int]
    targets: list[int]
    answers: list[int]
    example: int
    malicious: bool


def _row(example: Example, index: int, answers: Sequence[tuple[int, tuple[int, ...]]]) -> _Row:
    length = len(example.prompt)
    row = _Row(list(example.prompt), [0] * length, list(range(length)), [], [], [], index, example.malicious)
    for number, answer in answers:
        start = len(row.ids)
        row.predictors += [length - 1, *range(start, start + len(answer) - 1)]
        row.targets += answer
        row.answers += [number] * len(answer)
        row.ids += answer
        row.segments += [1 + number] * len(answer)
        row.positions += range(length, length + len(answer))
    return row


def _row_of_turns(example: TurnsExample, index: int) -> _Row:
    # All learned turns count as one answer: it is their tokens' mean that an example's loss is.
    learned = set(example.learned)
    return _Row(
        ids=list(example.ids),
        segments=[int(place in learned) for place in range(len(example.ids))],
        positions=list(range(len(example.ids))),
        predictors=[place - 1 for place in example.learned],
        targets=[example.ids[place] for place in example.learned],
        answers=[0] * len(example.learned),
        example=index,
        malicious=False,
    )


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(len(row) for row in rows)
    padded = torch.full((len(rows), longest), value, dtype=torch.long)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return padded


class ExampleDataset(torch.utils.data.Dataset[dict[str, object]]):
    """Examples as the Trainer indexes them; the index tells the loss whose it is."""

    def __init__(self, examples: Sequence[AnyExample]) -> None:
        self.examples = list(examples)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, object]:
        return {"example": self.examples[index], "index": index}


def attention_mask(segments: Tensor, layout: Layout, dtype: torch.dtype) -> Tensor:
    """The attention mask of a batch.

    Args:
        segments: ``[rows, tokens]``, as :class:`Collator` makes them.
        layout: ``"separate"`` gives a mask of ones ``[rows, tokens]``: causal attention alone keeps padding, which is on
            the right, from being seen, and padding that sees real tokens never turns to NaN, as it would where a sliding
            window leaves it nothing to see; ``"shared"`` gives an additive mask ``[rows, 1, tokens, tokens]``, 0 where a
            token is seen: earlier ones of the prompt and of its own answer.
        dtype: type of the additive mask: the model's.
    """
    if layout == "separate":
        return torch.ones_like(segments)
    tokens = segments.shape[1]
    earlier = torch.ones(tokens, tokens, dtype=torch.bool, device=segments.device).tril()
    same = segments.unsqueeze(2) == segments.unsqueeze(1)
    of_prompt = (segments == 0).unsqueeze(1)
    # Padding sees padding before it: a row that sees nothing would turn to NaN.
    seen = earlier & (same | (of_prompt & (segments != PADDING).unsqueeze(2)))
    return torch.zeros(seen.shape, dtype=dtype, device=segments.device).masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(1)
