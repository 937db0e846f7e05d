"""Outputs that a caller gets late while somebody listens to the answer, so that what is taken back was never shown.

Knows vLLM's outputs of a step; knows nothing of schedulers, probabilities or of what is done about an alarm.
"""

from __future__ import annotations

from typing import Any


class HeldOutputs:
    """The outputs of one request that its caller has not got yet.

    Args:
        tokens: how many tokens are held back at most; ``None`` holds all of them until the answer is whole.
    """

    def __init__(self, tokens: int | None) -> None:
        self._most = tokens
        self._waiting: list[Any] = []
        self.shown = 0
        """Tokens of the answer that were handed on."""

    def after(self, output: Any) -> list[Any]:
        """Take an output, and hand on what need not wait any longer, in order."""
        self._waiting.append(output)
        if output.finished:
            return self.all()
        found = []
        while self._waiting and self._most is not None and sum(len(one.new_token_ids) for one in self._waiting[1:]) >= self._most:
            found.append(self._hand_on())
        return found

    def all(self) -> list[Any]:
        """Hand on all that waits."""
        return [self._hand_on() for _ in self._waiting[:]]

    def take_back(self, keep: int) -> None:
        """Forget what waits behind the first ``keep`` tokens of the answer, of which all that was shown are some."""
        kept, count = [], self.shown
        for output in self._waiting:
            output.new_token_ids = output.new_token_ids[: keep - count]
            count += len(output.new_token_ids)
            if output.new_token_ids:
                kept.append(output)
        self._waiting = kept

    def _hand_on(self) -> Any:
        output = self._waiting.pop(0)
        self.shown += len(output.new_token_ids)
        return output
