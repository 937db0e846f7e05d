"""Which of several tuned models is kept.

Knows what was measured on dev; measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mogu.training.finetuning.measure import Score
from mogu.training.finetuning.ways import Way

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Tried:
    """A way and what it led to on dev."""

    way: Any
    score: Score

    def row(self) -> dict[str, Any]:
        """As the report holds it."""
        way = asdict(self.way) if isinstance(self.way, Way) else {"keep": self.way}
        return {"name": str(self.way), **way, **self.score.rows(), "task accuracy": self.score.task.accuracy}


def safest(tried: Sequence[Tried], *, max_task_loss: float, max_benign_loss: float) -> Tried:
    """The one to keep.

    1. Only those count whose task accuracy is at most ``max_task_loss`` below the best.
    2. Of them, only those whose benign refusals are at most ``max_benign_loss`` above the fewest.
    3. Of them, the one that refuses most malicious dev prompts, direct and jailbroken weighing the same; among equals the
       one of higher task accuracy, then the first.

    Where safety was not measured, the one of highest task accuracy.

    Args:
        tried: what was tried, at least one.
        max_task_loss: see there.
        max_benign_loss: see there.
    """
    best = max(one.score.task.accuracy for one in tried)
    left = [one for one in tried if one.score.task.accuracy >= best - max_task_loss - _ROUNDING]
    if any(one.score.safety is None for one in left):
        return max(left, key=lambda one: one.score.task.accuracy)
    scored = [(one, one.score.safety) for one in left if one.score.safety is not None]
    fewest = min(safety.benign_refused for _, safety in scored)
    scored = [(one, safety) for one, safety in scored if safety.benign_refused <= fewest + max_benign_loss + _ROUNDING]
    return max(scored, key=lambda both: (round(both[1].refused, 6), both[0].score.task.accuracy))[0]
