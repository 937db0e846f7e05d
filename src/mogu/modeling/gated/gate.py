"""The prompt gate and the stream head: how malicious a prompt, and an answer so far, is, read off a few hidden states of the base model.

.. code-block:: text

    prompt:  z   = Σ_l  u_l·h_l[last] + v_l·mean_{i ∈ user} h_l[i] + w_l·h_l[end]  +  b  +  δ        p = σ(z)
    answer:  z_t = Σ_l  a_l·h_l[t] + m_l·mean_{s ≤ t} h_l[s]  +  k·z  +  c                            p_t = σ(z_t)

``h_l`` is what decoder layer ``l`` hands upward, one of a few *taps*; ``last`` is the last token before the answer, ``user`` the tokens of
all of the user's turns, ``end`` the last of these, and ``s ≤ t`` runs over the answer. Each is linear: a tap costs one small product a
token. Knows hidden states and where things are in a prompt; knows nothing of models, files or of what follows from a probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mogu.inference.turns import PromptSpans

PROMPT_READINGS = ("last", "mean", "end")
"""What a tap gives of a prompt, in the order of the rows of a gate's vectors."""

STREAM_READINGS = ("token", "mean")
"""What a tap gives of an answer at each token, in the order of the rows of a stream head's vectors."""


@dataclass(frozen=True)
class Gate:
    """The weights of a prompt gate.

    Args:
        vectors: by tap, the index of a decoder layer: ``u, v, w`` as ``[3, d]``, float32.
        bias: ``b``.
    """

    vectors: Mapping[int, Tensor]
    bias: float

    @property
    def taps(self) -> tuple[int, ...]:
        """The decoder layers that are read, in order."""
        return tuple(sorted(self.vectors))


@dataclass(frozen=True)
class StreamHead:
    """The weights of a stream head.

    Args:
        vectors: by tap: ``a, m`` as ``[2, d]``, float32.
        prompt: ``k``.
        bias: ``c``.
    """

    vectors: Mapping[int, Tensor]
    prompt: float
    bias: float


@dataclass(frozen=True)
class Places:
    """Where things are in a batch of prompts, as tensors.

    Args:
        user: which tokens are the users', bool ``[batch, tokens]``.
        last: column of the last token before the answer, ``[batch]``.
        end: column of the user's last token, ``[batch]``.
    """

    user: Tensor
    last: Tensor
    end: Tensor

    @classmethod
    def of(cls, spans: Sequence[PromptSpans], offsets: Sequence[int], width: int, device: torch.device) -> Places:
        """Lay out the spans of each prompt in a padded batch.

        Args:
            spans: of each prompt.
            offsets: the column of each prompt's first token; what was read in an earlier pass has columns below 0.
            width: tokens of the batch.
            device: of the tensors.
        """
        columns = torch.arange(width)
        user = torch.zeros(len(spans), width, dtype=torch.bool)
        for row, (found, offset) in enumerate(zip(spans, offsets, strict=True)):
            for start, stop in found.user:
                user[row] |= (columns >= start + offset) & (columns < stop + offset)
        last, end = (torch.tensor([getattr(found, name) for found in spans]) + torch.tensor(offsets) for name in ("last", "end"))
        # Where an earlier pass has read all of a turn, the first token of this one is the nearest thing to it.
        return cls(user.to(device), last.clamp(min=0).to(device), end.clamp(min=0).to(device))


def prompt_readings(hidden: Tensor, places: Places) -> Tensor:
    """What a gate reads of a tap's hidden states ``[batch, tokens, d]``: ``[batch, 3, d]``, float32 (last, mean, end)."""
    rows = torch.arange(len(hidden), device=hidden.device)
    user = places.user.to(hidden.device)
    # Filled rather than multiplied by 0: values at padding must not count even if they are NaN.
    total = hidden.masked_fill(~user[..., None], 0).sum(1, dtype=torch.float32)
    mean = total / user.sum(1, keepdim=True).clamp(min=1)
    last, end = (hidden[rows, place.to(hidden.device)].float() for place in (places.last, places.end))
    return torch.stack([last, mean, end], dim=1)


class PromptReading:
    """One pass over a batch of prompts, as the gate hears it.

    Args:
        gate: the gate.
        places: where things are in the batch.
    """

    def __init__(self, gate: Gate, places: Places) -> None:
        self._gate, self._places = gate, places
        self._sums: list[Tensor] = []

    def read(self, tap: int, hidden: Tensor) -> None:
        """Take what a tap hands upward, ``[batch, tokens, d]``."""
        if tap in self._gate.vectors:
            readings = prompt_readings(hidden, self._places)
            self._sums.append((readings * self._gate.vectors[tap].to(hidden.device)).sum((1, 2)).cpu())

    @property
    def complete(self) -> bool:
        """Whether every tap of the gate has been heard."""
        return len(self._sums) == len(self._gate.vectors)

    def logits(self) -> Tensor:
        """``z`` without the dial, ``[batch]``, float32, on the CPU."""
        return torch.stack(self._sums).sum(0) + self._gate.bias


class StreamReading:
    """The answers of a batch, as the stream head hears them, one pass after the other.

    Args:
        head: the stream head.
        prompt_logits: ``z`` of each row's prompt, ``[batch]``.
    """

    def __init__(self, head: StreamHead, prompt_logits: Tensor) -> None:
        self._head = head
        self._fixed = head.prompt * prompt_logits.float().cpu() + head.bias
        self._total = torch.zeros(len(prompt_logits))
        self._count = 0
        self._heard: list[Tensor] = []

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows only, bool ``[batch]``."""
        rows = rows.cpu()
        self._fixed, self._total = self._fixed[rows], self._total[rows]

    def read(self, tap: int, hidden: Tensor) -> None:
        """Take what a tap hands upward for one more token of each row, ``[batch, 1, d]``."""
        if tap in self._head.vectors:
            vectors = self._head.vectors[tap].to(hidden.device)
            self._heard.append((hidden[:, -1].float() @ vectors.t()).cpu())

    def probabilities(self) -> Tensor | None:
        """``p_t`` of the token that was just read, ``[batch]``; ``None`` if no tap was heard since the last call."""
        if len(self._heard) < len(self._head.vectors):
            return None
        token, mean = torch.stack(self._heard).sum(0).unbind(1)
        self._heard = []
        self._count += 1
        self._total = self._total + mean
        return (self._fixed + token + self._total / self._count).sigmoid()
