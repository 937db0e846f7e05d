"""The ways of tuning that a recipe asks to try.

Knows settings; knows nothing of data or models.
"""

from __future__ import annotations

from dataclasses import dataclass

from mogu.finetuning.recipe import SafetySection


@dataclass(frozen=True)
class Way:
    """One way of tuning.

    Args:
        share: of the examples that are MoGU pairs.
        slow_factor: share of the learning rate outside the robust modules; ``None`` where all modules learn alike.
        tolerance: that the robust modules were found with; ``None`` where a file names them.
    """

    share: float = 0.0
    slow_factor: float | None = None
    tolerance: float | None = None

    def __str__(self) -> str:
        if self.slow_factor is not None:
            found = f", tolerance {self.tolerance:g}" if self.tolerance is not None else ""
            return f"ml-lr, slow factor {self.slow_factor:g}{found}"
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
            tolerances = [None] if safety.robust_modules is not None else list(dict.fromkeys(safety.tolerances))
            every = [(factor, one) for one in tolerances for factor in safety.slow_factors]
            # At a slow factor of 1 all modules learn alike, whichever are robust.
            return list(dict.fromkeys(Way() if factor == 1 else Way(slow_factor=factor, tolerance=one) for factor, one in every))
        case "none":
            return [Way()]
