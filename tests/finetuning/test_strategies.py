"""The strategies that a recipe asks to try."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mogu.finetuning.recipe import SafetySection
from mogu.finetuning.strategies import strategies_of


def test_what_a_recipe_tries() -> None:
    def ways(**settings: Any) -> list[str]:
        return [str(way) for way in strategies_of(SafetySection(pairs=Path("pairs.jsonl"), **settings))]

    assert ways(method="none") == ["plain"]
    assert ways(method="data-mix", shares=[0, 0.1, 0.1]) == ["plain", "data-mix, share 0.1"]
    # With all modules at the whole rate it does not matter which are robust.
    assert ways(method="ml-lr", slow_factors=[1, 0.1], tolerances=[0.2, 0.4]) == [
        "plain",
        "ml-lr, slow factor 0.1, tolerance 0.2",
        "ml-lr, slow factor 0.1, tolerance 0.4",
    ]
    assert ways(method="ml-lr", slow_factors=[0], robust_modules=Path("robustness.json")) == ["ml-lr, slow factor 0"]
    assert ways(method="swat", warm_ups=[0, 0.1], tolerances=[0.2, 0.4]) == [
        "plain",
        "swat, warm-up 0.1, tolerance 0.2",
        "swat, warm-up 0.1, tolerance 0.4",
    ]
    assert ways(method="swat", warm_ups=[0.5, 0.5], robust_modules=Path("robustness.json")) == ["swat, warm-up 0.5"]
