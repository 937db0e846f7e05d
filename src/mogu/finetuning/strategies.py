"""The tuning strategies that a recipe asks to try.

Knows settings; knows nothing of data or models.
"""

from __future__ import annotations

from dataclasses import dataclass

from mogu.finetuning.recipe import SafetySection


@dataclass(frozen=True)
class Strategy:
    """One tuning strategy.

    Args:
        share: MoGU pairs as a share of all examples.
        slow_factor: share of the learning rate outside the robust modules; ``None`` if all modules learn alike.
        tolerance: the tolerance that the robust modules were found with; ``None`` if a file names them.
    """

    share: float = 0.0
    slow_factor: float | None = None
    tolerance: float | None = None

    def __str__(self) -> str:
        if self.slow_factor is not None:
            tolerance = f", tolerance {self.tolerance:g}" if self.tolerance is not None else ""
            return f"ml-lr, slow factor {self.slow_factor:g}{tolerance}"
        return f"data-mix, share {self.share:g}" if self.share else "plain"

    @property
    def folder_name(self) -> str:
        """The strategy as the name of a folder."""
        return str(self).replace(", ", "-").replace(" ", "-")


def strategies_of(safety: SafetySection) -> list[Strategy]:
    """List what a recipe tries, in order: every share, every slow factor, or plain tuning."""
    match safety.method:
        case "data-mix":
            return [Strategy(share=share) for share in dict.fromkeys(safety.shares)]
        case "ml-lr":
            tolerances = [None] if safety.robust_modules is not None else list(dict.fromkeys(safety.tolerances))
            pairs = [(factor, tolerance) for tolerance in tolerances for factor in safety.slow_factors]
            # At a slow factor of 1 all modules learn alike, whichever are robust.
            strategies = [Strategy() if factor == 1 else Strategy(slow_factor=factor, tolerance=tolerance) for factor, tolerance in pairs]
            return list(dict.fromkeys(strategies))
        case "none":
            return [Strategy()]
