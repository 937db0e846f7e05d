"""The tuning strategies that a recipe asks to try.

Knows settings; knows nothing of data or models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mogu.finetuning.recipe import SafetySection

Repair = Literal["safe-lora", "safe-merge"]
"""What is done to a plainly tuned model afterward."""


@dataclass(frozen=True)
class Strategy:
    """One tuning strategy.

    Args:
        share: MoGU pairs as a share of all examples.
        slow_factor: share of the learning rate outside the robust modules; ``None`` if all modules learn alike.
        warm_up: share of the steps in which the robust modules are trained alone; ``None`` if there is no warm-up.
        tolerance: the tolerance that the robust modules were found with; ``None`` if a file names them.
        repair: how the plainly tuned model is repaired; ``None`` if it is not.
        threshold: the similarity below which the update of a module is repaired.
    """

    share: float = 0.0
    slow_factor: float | None = None
    warm_up: float | None = None
    tolerance: float | None = None
    repair: Repair | None = None
    threshold: float = 0.0

    def __str__(self) -> str:
        tolerance = f", tolerance {self.tolerance:g}" if self.tolerance is not None else ""
        if self.slow_factor is not None:
            return f"ml-lr, slow factor {self.slow_factor:g}{tolerance}"
        if self.warm_up is not None:
            return f"swat, warm-up {self.warm_up:g}{tolerance}"
        if self.repair is not None:
            return f"{self.repair}, threshold {self.threshold:g}"
        return f"data-mix, share {self.share:g}" if self.share else "plain"

    @property
    def needs_robust_modules(self) -> bool:
        """Whether it treats robust modules in another way than the rest."""
        return self.slow_factor is not None or self.warm_up is not None

    @property
    def folder_name(self) -> str:
        """The strategy as the name of a folder."""
        return str(self).replace(", ", "-").replace(" ", "-")


def strategies_of(safety: SafetySection) -> list[Strategy]:
    """List what a recipe tries, in order: every share, every slow factor, every warm-up, every threshold, or plain tuning."""
    tolerances = [None] if safety.robust_modules is not None else list(dict.fromkeys(safety.tolerances))
    match safety.method:
        case "data-mix":
            strategies = [Strategy(share=share) for share in safety.shares]
        case "ml-lr":
            # At a slow factor of 1 all modules learn alike, whichever are robust; so they do without a warm-up.
            strategies = [
                Strategy() if factor == 1 else Strategy(slow_factor=factor, tolerance=tolerance)
                for tolerance in tolerances
                for factor in safety.slow_factors
            ]
        case "swat":
            strategies = [
                Strategy() if share == 0 else Strategy(warm_up=share, tolerance=tolerance)
                for tolerance in tolerances
                for share in safety.warm_ups
            ]
        case "safe-lora" | "safe-merge":
            # What is repaired was tuned plainly: that it is tried as well costs no training.
            strategies = [Strategy(), *(Strategy(repair=safety.method, threshold=threshold) for threshold in safety.thresholds)]
        case "none":
            strategies = [Strategy()]
    return list(dict.fromkeys(strategies))
