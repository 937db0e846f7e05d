"""Which examples each optimizer step sees, and in how many passes: length-grouped, reproducible, resumable.

Knows lengths and sizes; knows nothing of examples' content, models or losses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

MOST_GROUPED = 50
"""Steps among which examples are sorted by length, at most: more would make neighbors of the same ones each epoch."""


class StepBatches(Sampler[list[int]]):
    """Indices for one pass at a time; ``passes`` of them make a step of ``batch_size`` examples.

    The order depends on the seed and on ``epoch`` alone, so that a resumed run goes through the very same batches. The
    step with the longest example comes first: a run that is short of memory fails at once.

    Args:
        lengths: of each example, in tokens.
        batch_size: examples a step; the last step of an epoch has what is left.
        micro_batch_size: examples a pass, at most.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, micro_batch_size: int, seed: int) -> None:
        self.lengths = list(lengths)
        self.batch_size = min(batch_size, len(self.lengths))
        self.passes = math.ceil(self.batch_size / micro_batch_size)
        self.in_a_pass = math.ceil(self.batch_size / self.passes)
        self.seed = seed
        self.epoch = 0
        """Set before each epoch."""

    @property
    def steps(self) -> int:
        """Optimizer steps an epoch."""
        return math.ceil(len(self.lengths) / self.batch_size)

    def __len__(self) -> int:
        """Passes an epoch."""
        whole, left = divmod(len(self.lengths), self.batch_size)
        return whole * self.passes + math.ceil(left / self.in_a_pass)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self._steps():
            for start in range(0, len(step), self.in_a_pass):
                yield step[start : start + self.in_a_pass]

    def _steps(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        near = self.batch_size * max(1, min(self.steps // 4, MOST_GROUPED))
        whole: list[list[int]] = []
        rest: list[list[int]] = []
        for start in range(0, len(order), near):
            alike = sorted(order[start : start + near], key=self.lengths.__getitem__, reverse=True)
            for first in range(0, len(alike), self.batch_size):
                step = alike[first : first + self.batch_size]
                (whole if len(step) == self.batch_size else rest).append(step)
        shuffled = [whole[index] for index in torch.randperm(len(whole), generator=generator).tolist()]
        longest = max(range(len(shuffled)), key=lambda index: self.lengths[shuffled[index][0]])
        shuffled.insert(0, shuffled.pop(longest))
        return shuffled + rest
