"""Which of several tuned models is kept.

Knows what was measured on dev; measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mogu.finetuning.evaluate import Score
from mogu.finetuning.strategies import Way

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


def safest(tried: Sequence[Tried], before: Score, *, max_task_loss: float, max_benign_loss: float) -> Tried:
    """The one to keep.

    1. Only those count whose task accuracy is at most ``max_task_loss`` below the best.
    2. Of them, only those that refuse at most ``max_benign_loss`` more of the benign dev prompts than the model did before tuning;
       where none does, the one that refuses fewest is kept.
    3. Of them, the one that refuses most malicious dev prompts, direct and jailbroken weighing the same; among equals the
       one of higher task accuracy, then the first.

    Where safety was not measured, the one of highest task accuracy.

    Args:
        tried: what was tried, at least one.
        before: what the model did before tuning.
        max_task_loss: see there.
        max_benign_loss: see there.
    """
    best = max(one.score.task.accuracy for one in tried)
    able = [one for one in tried if one.score.task.accuracy >= best - max_task_loss - _ROUNDING]

    def rank(one: Tried) -> tuple[float, ...]:
        safety, accuracy = one.score.safety, one.score.task.accuracy
        if safety is None or before.safety is None:
            return (accuracy,)
        if safety.benign_refused <= before.safety.benign_refused + max_benign_loss + _ROUNDING:
            return (1.0, round(safety.refused, 6), accuracy)
        return (0.0, -safety.benign_refused, accuracy)

    return max(able, key=rank)
