"""The ways of tuning that a recipe asks to try.

Knows settings; knows nothing of data or models.
"""

from __future__ import annotations

from dataclasses import dataclass

from mogu.training.finetuning.recipe import SafetySection


@dataclass(frozen=True)
class Way:
    """One way of tuning.

    Args:
        share: of the examples that are MoGU pairs.
        slow_factor: share of the learning rate outside the robust modules; ``None`` where all modules learn alike.
    """

    share: float = 0.0
    slow_factor: float | None = None

    def __str__(self) -> str:
        if self.slow_factor is not None:
            return f"ml-lr, slow factor {self.slow_factor:g}"
        return f"data-mix, share {self.share:g}" if self.share else "plain"

    @property
    def folder_name(self) -> str:
        """Its name as a folder."""
        return str(self).replace(", ", "-").replace(" ", "-")


def ways_of(safety: SafetySection) -> list[Way]:
    """What is tried, in order: every share, every slow factor, or plain tuning."""
    match safety.method:
        case "data-mix":
            return [Way(share=share) for share in dict.fromkeys(safety.shares)]
        case "ml-lr":
            return [Way(slow_factor=factor) for factor in dict.fromkeys(safety.slow_factors)]
        case "none":
            return [Way()]
