"""What each token of a prompt, at each layer that a gate hears, adds to the gate's logit.

.. code-block:: text

    c[l, i] = Σ_k a_k[i]·v_kl·h_l[i]  for i ∈ user   +   w_l·h_l[end]  at i = end   +   u_l·h_l[last]  at i = last
    z       = Σ_l Σ_i c[l, i] + b + δ

The second line is an identity: it is the sum of :mod:`mogu.modeling.gated.gate`, its terms kept apart. What it says is what the gate summed
up, not what would become of ``z`` without a token: each ``h_l[i]`` has read the tokens before it, and each ``a_k[i]`` depends on all of the
user's tokens.

Knows hidden states and where things are in a prompt; knows nothing of models, tokenizers or of how numbers are shown.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mogu.modeling.gated.gate import ENDS, AllRead, Gate, Places


class ContributionReading:
    """One pass over one prompt, as the gate hears it; it ends the pass once every tap has been heard.

    Args:
        gate: the gate.
        places: where things are in the prompt, as of a batch of one.
    """

    def __init__(self, gate: Gate, places: Places) -> None:
        self._gate, self._places = gate, places
        self._heard: dict[int, Tensor] = {}

    def read(self, tap: int, hidden: Tensor) -> None:
        """Take what a tap hands upward, ``[1, tokens, d]``.

        Raises:
            AllRead: it was the last one.
        """
        if tap not in self._gate.vectors:
            return
        self._heard[tap] = (hidden[0].float() @ self._gate.vectors[tap].to(hidden.device).t()).cpu()
        if len(self._heard) == len(self._gate.vectors):
            raise AllRead

    def contributions(self) -> Tensor:
        """``c``, ``[taps, tokens]``, float32, taps in rising order."""
        said = torch.stack([self._heard[tap] for tap in self._gate.taps])  # [taps, tokens, 2 + 2·heads]
        user = self._places.user[0].cpu()
        queries, values = said[..., ENDS:].chunk(2, dim=-1)
        # What a head looks at is decided by all taps together.
        looked_at = queries.sum(0).masked_fill(~user[:, None], torch.finfo(queries.dtype).min).softmax(0)
        added = (looked_at * values).sum(-1).masked_fill(~user, 0.0)
        last, end = int(self._places.last[0]), int(self._places.end[0])
        added[:, last] += said[:, last, 0]
        added[:, end] += said[:, end, 1]
        return added
