"""What is counted as held in memory."""

from __future__ import annotations

import torch

from mogu.evaluation.compare.costs import distinct_bytes


def test_tied_weights_count_once() -> None:
    first = torch.nn.Linear(4, 4, bias=False)
    second = torch.nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    assert distinct_bytes([first, second]) == 64
