"""The prompt gate and the stream head: how malicious a prompt, and an answer so far, is, read off a few hidden states of the base model.

.. code-block:: text

    prompt:  z   = Σ_l u_l·h_l[last] + w_l·h_l[end]  +  Σ_k Σ_{i ∈ user} a_k[i]·Σ_l v_kl·h_l[i]  +  b  +  δ        p = σ(z)
             a_k = softmax over i ∈ user of Σ_l q_kl·h_l[i]
    answer:  z_t = Σ_l a_l·h_l[t] + m_l·mean_{s ≤ t} h_l[s]  +  κ·z  +  c                                          p_t = σ(z_t)

``h_l`` is what decoder layer ``l`` hands upward, one of a few *taps*; ``last`` is the last token before the answer, ``user`` the tokens of
all of the user's turns, ``end`` the last of these, and ``s ≤ t`` runs over the answer. Each of the *heads* ``k`` looks for tokens of one
kind and weighs what they say, wherever in a long text they are: a mean over all of it would drown them. A tap costs one small product a
token, and a softmax can be summed up while a prompt is read in pieces.

Knows hidden states and where things are in a prompt; knows nothing of models, files or of what follows from a probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mogu.inference.turns import PromptSpans

ENDS = 2
"""How many of the first rows of a gate's vectors weigh single tokens: the last one before the answer, and the user's last."""

STREAM_READINGS = ("token", "mean")
"""What a tap gives of an answer at each token, in the order of the rows of a stream head's vectors."""


@dataclass(frozen=True)
class Gate:
    """The weights of a prompt gate.

    Args:
        vectors: by tap, the index of a decoder layer: ``u, w``, all ``q_k`` and all ``v_k`` as ``[2 + 2·heads, d]``, float32.
        bias: ``b``.
    """

    vectors: Mapping[int, Tensor]
    bias: float

    @property
    def heads(self) -> int:
        """How many kinds of tokens it looks for."""
        return (len(next(iter(self.vectors.values()))) - ENDS) // 2

    def scaled(self, slope: float, offset: float) -> Gate:
        """The gate whose logits are ``slope·z + offset``."""
        factors = torch.full((ENDS + 2 * self.heads, 1), slope)
        factors[ENDS : ENDS + self.heads] = 1.0  # which tokens are looked at stays the same
        return Gate({tap: vectors * factors for tap, vectors in self.vectors.items()}, self.bias * slope + offset)

    @property
    def taps(self) -> tuple[int, ...]:
        """The decoder layers that are read, in order."""
        return tuple(sorted(self.vectors))


@dataclass(frozen=True)
class StreamHead:
    """The weights of a stream head.

    Args:
        vectors: by tap: ``a, m`` as ``[2, d]``, float32.
        prompt: ``κ``.
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


class AllRead(Exception):
    """Raised by a reading that ends its pass: every tap has been read."""


class PromptReading:
    """One pass over a batch of prompts, as the gate hears it.

    Args:
        gate: the gate.
        places: where things are in the batch.
    """

    def __init__(self, gate: Gate, places: Places) -> None:
        self._gate, self._places = gate, places
        self._heard: list[tuple[Tensor, Tensor]] = []

    def read(self, tap: int, hidden: Tensor) -> None:
        """Take what a tap hands upward, ``[batch, tokens, d]``."""
        if tap not in self._gate.vectors:
            return
        vectors = self._gate.vectors[tap].to(hidden.device)
        rows = torch.arange(len(hidden), device=hidden.device)
        last, end = (hidden[rows, place.to(hidden.device)].float() for place in (self._places.last, self._places.end))
        self._heard.append((last @ vectors[0] + end @ vectors[1], hidden.float() @ vectors[ENDS:].t()))

    @property
    def complete(self) -> bool:
        """Whether every tap of the gate has been heard."""
        return len(self._heard) == len(self._gate.vectors)

    def logits(self) -> Tensor:
        """``z`` without the dial, ``[batch]``, float32, on the CPU."""
        device = self._heard[0][0].device
        ends, tokens = (torch.stack([part.to(device) for part in parts]).sum(0) for parts in zip(*self._heard, strict=True))
        return (ends + attended(tokens, self._places.user.to(device)).sum(1)).cpu() + self._gate.bias


def attended(tokens: Tensor, user: Tensor) -> Tensor:
    """What each head of a gate makes of a batch of prompts: ``Σ_i a_k[i]·v_k[i]``, ``[batch, heads]``; 0 where no token is the users'.

    Args:
        tokens: at each token the logits of all heads' attention, and then what it says to each: ``[batch, tokens, 2·heads]``.
        user: which tokens are the users', bool ``[batch, tokens]``.
    """
    queries, values = tokens.chunk(2, dim=-1)
    # Filled rather than multiplied by 0: values at padding must not count even if they are NaN.
    weights = queries.masked_fill(~user[..., None], torch.finfo(queries.dtype).min).softmax(1)
    return (weights * values.masked_fill(~user[..., None], 0.0)).sum(1)


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
