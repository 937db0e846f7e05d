"""Which examples each optimizer step sees, and in how many passes: grouped by length, reproducible, resumable.

Knows lengths and sizes; does not look at what an example holds, and knows nothing of models or losses.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable

import torch

MOST_GROUPED = 50
"""Sort examples by length among at most this many steps: with more, the same examples would be neighbors in every epoch."""


class StepBatches:
    """Example indices for every optimizer step of an epoch, a step split into passes.

    The order depends on the seed and the epoch alone, so a resumed run sees the very same batches. The step with the longest example
    comes first: a run that is short of memory fails at once.

    Args:
        lengths: tokens of each example.
        batch_size: examples per step; the last step of an epoch has what is left.
        micro_batch_size: the most examples per pass.
        seed: of the order.
        processes: how many make the passes of a step side by side; each makes one of so many.
    """

    def __init__(self, lengths: Iterable[int], batch_size: int, micro_batch_size: int, seed: int, processes: int = 1) -> None:
        self.lengths = array("q", lengths)
        self.batch_size = min(batch_size, len(self.lengths))
        of_a_process = math.ceil(self.batch_size / processes)
        self.passes = math.ceil(of_a_process / micro_batch_size)
        self.in_a_pass = math.ceil(of_a_process / self.passes)
        self.seed = seed

    @property
    def steps(self) -> int:
        """Optimizer steps per epoch."""
        return math.ceil(len(self.lengths) / self.batch_size)

    def of_epoch(self, epoch: int) -> list[list[list[int]]]:
        """The steps of an epoch, counted from 0: for each step its passes, for each pass the indices of its examples."""
        size = self.in_a_pass
        return [[step[start : start + size] for start in range(0, len(step), size)] for step in self._steps(epoch)]

    def _steps(self, epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        near = self.batch_size * max(1, min(self.steps // 4, MOST_GROUPED))
        full: list[list[int]] = []
        rest: list[list[int]] = []
        for start in range(0, len(order), near):
            similar = sorted(order[start : start + near], key=self.lengths.__getitem__, reverse=True)
            for first in range(0, len(similar), self.batch_size):
                step = similar[first : first + self.batch_size]
                (full if len(step) == self.batch_size else rest).append(step)
        shuffled = [full[index] for index in torch.randperm(len(full), generator=generator).tolist()]
        longest = max(range(len(shuffled)), key=lambda index: self.lengths[shuffled[index][0]])
        shuffled.insert(0, shuffled.pop(longest))
        return shuffled + rest
