"""Both ways to train have the same losses."""

from __future__ import annotations

from typing import Any


def test_training_ways_have_the_same_losses(quick: dict[str, Any]) -> None:
    for stage in ("responder", "router"):
        assert quick["training"][stage]["loss_difference"] < 1e-5
