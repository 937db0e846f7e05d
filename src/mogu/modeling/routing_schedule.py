"""Which tokens of an answer are routed: its first ones and, behind a marker such as the end of a reasoning block, the next ones again.

Knows token ids; knows nothing of models, caches or text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Openings:
    """When to route.

    Token ``k`` of an answer (from 0) is routed if ``k < m``, or if the marker first ended at token ``e`` and ``e < k <= e + m``.

    Args:
        routed_tokens: ``m``; ``None`` routes every token.
        marker: token ids of the marker; empty for none.
    """

    routed_tokens: int | None
    marker: tuple[int, ...] = ()

    def routed(self, answers: Tensor) -> list[bool]:
        """Whether each row's next token is routed, given the answers so far, ``[rows, tokens]``."""
        rows, count = answers.shape
        first = self.routed_tokens is None or count < self.routed_tokens
        if first or not self.routed_tokens or not self.marker or count < len(self.marker):
            return [first] * rows
        marker = torch.tensor(self.marker, device=answers.device)
        ends_here = (answers.unfold(1, len(self.marker), 1) == marker).all(-1)
        since = count - len(self.marker) - ends_here.int().argmax(1)  # tokens behind the first marker, where there is one
        again: list[bool] = (ends_here.any(1) & (since < self.routed_tokens)).tolist()
        return again
