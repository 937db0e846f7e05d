"""Weights and parameters are counted once for MoGU and twice for the published pair."""

from __future__ import annotations

from typing import Any

from benchmarks.memory import added_parameters
from benchmarks.models import LLAMA_2_7B, SMALL


def test_memory_counts_weights_once_for_mogu_and_twice_for_the_published_pair(quick: dict[str, Any]) -> None:
    weights = {way: runs[0]["weight_bytes"] for way, runs in quick["memory"]["runs"].items()}
    layers, width, rank = SMALL.layers, SMALL.hidden, 8
    assert weights["recompute"] - weights["base"] == 4 * layers * ((4 * rank + 2) * width + 2)
    assert weights["published"] > 2 * weights["base"]


def test_added_parameters_at_the_7b_shape() -> None:
    layers, width, inner, vocabulary, rank, hidden = 32, 4096, 11008, 32000, 8, 512
    base = 2 * vocabulary * width + layers * (4 * width**2 + 3 * width * inner + 2 * width) + width
    mogu = layers * (2 * rank * width + 2 * width + 2 * rank * width + 2)
    published = layers * (2 * 2 * rank * width + 2 * (hidden * width + width * hidden + width + width + 1))
    assert added_parameters(LLAMA_2_7B) == {"base": base, "mogu": mogu, "published": published}
    assert 100 * mogu / base <= 0.1
    assert round(100 * published / base, 2) == 4.05
