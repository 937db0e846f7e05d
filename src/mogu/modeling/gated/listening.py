"""Listening to answers while they are generated: who raises an alarm, and what a streaming caller gets to see meanwhile.

Knows probabilities and token ids; knows nothing of models, caches or of what is done about an alarm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from mogu.modeling.gated.gate import StreamReading

CALM = 0.5
"""Share of the threshold below which an answer counts as still harmless."""

_ENDS_A_SENTENCE = re.compile(r"[.!?:;…][\"'”’)\]*]*\s*$|\n\s*$")


def sentence_boundary(tokenizer: Any, answer: Sequence[int]) -> int:
    """How many tokens of an answer stand before the end of its last whole sentence."""
    texts = ((count, str(tokenizer.decode(list(answer[:count])))) for count in range(len(answer), 0, -1))
    return next((count for count, text in texts if _ENDS_A_SENTENCE.search(text)), 0)


class Ear(StoppingCriteria):
    """Ends the rows of a batch whose answers become malicious.

    Args:
        threshold: the probability from which on an answer does.
        rows: size of the batch.
    """

    def __init__(self, threshold: float, rows: int) -> None:
        self._threshold = threshold
        self._present = torch.arange(rows)
        self._heard: list[list[float]] = [[] for _ in range(rows)]
        self._listens = torch.zeros(rows, dtype=torch.bool)
        self._rung = torch.zeros(rows, dtype=torch.bool)
        self.reading: StreamReading | None = None

    def start(self, reading: StreamReading, rows: Tensor) -> None:
        """Begin to listen to some rows, bool ``[batch]``."""
        self.reading, self._listens = reading, rows.cpu()

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows that are left, bool ``[rows left]``."""
        self._present = self._present[rows.cpu()]
        if self.reading is not None:
            self.reading.keep(rows)

    def hear(self) -> None:
        """Take in what the last pass has read."""
        probabilities = self.reading.probabilities() if self.reading is not None else None
        if probabilities is None:
            return
        for row, probability in zip(self._present.tolist(), probabilities.tolist(), strict=True):
            if self._listens[row] and not self._rung[row]:
                self._heard[row].append(probability)
                self._rung[row] = probability >= self._threshold

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Which rows end here, bool ``[batch]``."""
        return self._rung.to(input_ids.device)

    @property
    def alarms(self) -> list[int]:
        """The rows whose answers became malicious."""
        return [int(row) for row in self._rung.nonzero()[:, 0]]

    def harmless_tokens(self, row: int) -> int:
        """How many tokens of an alarming answer stand before what gave rise to the alarm."""
        calm = [index for index, probability in enumerate(self._heard[row]) if probability < CALM * self._threshold]
        return calm[-1] + 1 if calm else 0


class HeldBack:
    """A streamer that hands tokens on late, so that some can still be taken back.

    Args:
        streamer: gets the tokens; the prompt first, as ``generate`` hands it.
        tokens: how many tokens are held back.
        ear: listens to the answer; from an alarm on nothing is handed on until something is taken back.
    """

    def __init__(self, streamer: Any, tokens: int, ear: Ear) -> None:
        self._streamer, self._tokens = streamer, tokens
        self._ear: Ear | None = ear
        self._waiting: list[Tensor] = []
        self._prompts = 0
        self.shown = 0
        """Tokens of the answer that were handed on."""

    def put(self, value: Tensor) -> None:
        """Take a token, or first of all the prompt."""
        if value.dim() > 1:
            self._prompts += 1
            if self._prompts == 1:  # the prompt of a second call is the first one with the answer so far
                self._streamer.put(value)
            return
        self._waiting.append(value)
        while len(self._waiting) > self._tokens and not (self._ear is not None and self._ear.alarms):
            self._show()

    def end(self) -> None:
        """Nothing yet: another call may go on."""

    def take_back(self, keep: int) -> None:
        """Forget what waits behind the first ``keep`` tokens of the answer."""
        self._waiting = self._waiting[: max(0, keep - self.shown)]
        self._ear = None  # what follows is not the base model's

    def close(self) -> None:
        """Hand on what waits: the answer is whole."""
        while self._waiting:
            self._show()
        self._streamer.end()

    def _show(self) -> None:
        self._streamer.put(self._waiting.pop(0))
        self.shown += 1
