"""Vectors in half precision that neither overflow nor lose small numbers: float16 beside one power of two a vector.

Knows numbers; knows nothing of models or prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Halves:
    """``x = values · 2^exponents``, with the largest entry of each vector between a half and one.

    Plain float16 ends at 65,504, which activations of some models exceed, and is coarse below 0.00006. bfloat16 has room, and
    three bits fewer: a feature with a large mean and a small spread would lose the spread, which is what a probe reads.

    Args:
        values: ``[.., d]``, float16.
        exponents: ``[..]``, int16.
    """

    values: Tensor
    exponents: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> Self:
        """Pack finite vectors ``[.., d]`` of any floating type; off by at most ``2^-11`` of an entry, or ``2^-24`` of the largest one."""
        vectors = vectors.double()
        exponents = torch.frexp(vectors.abs().amax(-1)).exponent
        return cls((vectors * torch.exp2(-exponents.double())[..., None]).half(), exponents.short())

    def unpacked(self) -> Tensor:
        """``[.., d]``, float64."""
        return self.values.double() * torch.exp2(self.exponents.double())[..., None]

    @classmethod
    def joined(cls, parts: Sequence[Self], order: Tensor) -> Self:
        """Parts ``[layers, some prompts, d]`` put together, then brought into an order of prompts."""
        values = torch.cat([part.values for part in parts], 1)[:, order]
        return cls(values, torch.cat([part.exponents for part in parts], 1)[:, order])
