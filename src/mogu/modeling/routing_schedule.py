"""Which tokens of an answer are routed: its first ones and, behind a marker such as the end of a reasoning block, the next ones again.

Knows token ids; knows nothing of models, caches or text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mogu.errors import ConfigError
from mogu.modeling.config import RoutedTokens


@dataclass(frozen=True)
class RoutingSchedule:
    """When to route.

    Token ``k`` of an answer (from 0) is routed if ``k < m``, or if the marker first ended at token ``e`` and ``e < k <= e + m``.

    Args:
        routed_tokens: ``m``; ``"all"`` routes every token.
        marker: token ids of the marker; empty for none.

    Raises:
        ConfigError: ``routed_tokens`` is neither a whole number from 0 nor ``"all"``.
    """

    routed_tokens: RoutedTokens
    marker: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        count = self.routed_tokens
        if count != "all" and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
            raise ConfigError(
                f"routed_tokens is {count!r}",
                expected="a whole number from 0, or 'all'",
                action="give how many tokens to route, or leave it out for the model's own setting",
            )

    @property
    def routes_anything(self) -> bool:
        """Whether any token is routed."""
        return self.routed_tokens != 0

    def routed(self, answers: Tensor) -> list[bool]:
        """Whether each row's next token is routed, given the answers so far, ``[rows, tokens]``."""
        rows, count = answers.shape
        if self.routed_tokens == "all":
            return [True] * rows
        first = count < self.routed_tokens
        if first or not self.routed_tokens or not self.marker or count < len(self.marker):
            return [first] * rows
        marker = torch.tensor(self.marker, device=answers.device)
        ends_here = (answers.unfold(1, len(self.marker), 1) == marker).all(-1)
        since = count - len(self.marker) - ends_here.int().argmax(1)  # tokens behind the first marker, where there is one
        again: list[bool] = (ends_here.any(1) & (since < self.routed_tokens)).tolist()
        return again
