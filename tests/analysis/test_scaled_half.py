"""Half precision with one power of two for each vector loses nothing that matters."""

from __future__ import annotations

import pytest
import torch

from mogu.analysis.scaled_half import ScaledHalf


@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30])
def test_scaled_halves_neither_overflow_nor_lose_small_numbers(scale: float) -> None:
    torch.manual_seed(0)
    vectors = scale * torch.randn(4, 7, 50, dtype=torch.float64) * torch.logspace(0, -3, 50, dtype=torch.float64)
    back = ScaledHalf.of(vectors).unpacked()
    largest = vectors.abs().amax(-1, keepdim=True)
    assert ((back - vectors).abs() <= 2**-11 * vectors.abs() + 2**-24 * largest).all()


def test_scaled_halves_keep_bfloat16_and_zeros_as_they_are() -> None:
    torch.manual_seed(0)
    vectors = (torch.randn(5, 40) * 1e5).bfloat16()  # beyond the range of float16
    assert torch.equal(ScaledHalf.of(vectors).unpacked(), vectors.double())
    assert torch.equal(ScaledHalf.of(torch.zeros(2, 3)).unpacked(), torch.zeros(2, 3, dtype=torch.float64))
