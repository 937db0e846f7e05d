"""Vectors in half precision that neither overflow nor lose small numbers: float16 with one power of two for each vector.

Knows numbers; knows nothing of models or prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScaledHalf:
    """``x = values · 2^exponents``, where the largest entry of each vector of ``values`` lies between a half and one.

    Plain float16 ends at 65,504, which the activations of some models exceed, and is coarse below 0.00006. bfloat16 has the range but
    three bits fewer: a feature with a large mean and a small standard deviation would lose the variation that a probe reads.

    Args:
        values: ``[.., d]``, float16.
        exponents: ``[..]``, int16.
    """

    values: Tensor
    exponents: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> Self:
        """Pack finite vectors ``[.., d]`` of any float type, with an error of at most ``2^-11`` of an entry or ``2^-24`` of the largest."""
        vectors = vectors.double()
        exponents = torch.frexp(vectors.abs().amax(-1)).exponent
        return cls((vectors * torch.exp2(-exponents.double())[..., None]).half(), exponents.short())

    def unpacked(self) -> Tensor:
        """Return the vectors, ``[.., d]``, float64."""
        return self.values.double() * torch.exp2(self.exponents.double())[..., None]

    @classmethod
    def joined(cls, batches: Sequence[Self], order: Tensor) -> Self:
        """Concatenate batches ``[layers, prompts of the batch, d]`` along the prompts, then reorder the prompts."""
        values = torch.cat([batch.values for batch in batches], 1)[:, order]
        return cls(values, torch.cat([batch.exponents for batch in batches], 1)[:, order])
