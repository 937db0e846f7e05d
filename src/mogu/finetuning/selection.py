"""Which of several tuned models to keep.

Knows what was measured on dev; measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mogu.finetuning.evaluate import Score
from mogu.finetuning.strategies import Strategy

_ROUNDING = 1e-9


@dataclass(frozen=True)
class TuningTrial:
    """A strategy, or a way of updating routers and responders afterward, and what it led to on dev."""

    strategy: Strategy | str
    score: Score

    def row(self) -> dict[str, Any]:
        """The trial as a row of the report."""
        settings = asdict(self.strategy) if isinstance(self.strategy, Strategy) else {"keep": self.strategy}
        return {"name": str(self.strategy), **settings, **self.score.rows(), "task accuracy": self.score.task.accuracy}


def safest(trials: Sequence[TuningTrial], before: Score, *, max_task_loss: float, max_benign_loss: float) -> TuningTrial:
    """Choose the trial to keep.

    1. Only trials whose task accuracy is at most ``max_task_loss`` below the best are eligible.
    2. Of these, only trials that refuse at most ``max_benign_loss`` more of the benign dev prompts than the model did before tuning,
       and likewise of borderline ones; if there are none, the one that refuses fewest is kept, both kinds weighing the same.
    3. Of these, the one that refuses most malicious dev prompts is kept, direct and jailbroken weighing the same; among equals the
       one of higher task accuracy, then the first.

    If safety was not measured, the one of highest task accuracy is kept.

    Args:
        trials: what was tried, at least one.
        before: what the model did before tuning.
        max_task_loss: a bound on the loss of task accuracy, from 0 to 1.
        max_benign_loss: a bound on additional refusals of benign prompts, from 0 to 1.
    """
    best = max(trial.score.task.accuracy for trial in trials)
    eligible = [trial for trial in trials if trial.score.task.accuracy >= best - max_task_loss - _ROUNDING]

    def rank(trial: TuningTrial) -> tuple[float, ...]:
        safety, accuracy = trial.score.safety, trial.score.task.accuracy
        if safety is None or before.safety is None:
            return (accuracy,)
        if safety.benign_loss(before.safety) <= max_benign_loss + _ROUNDING:
            return (1.0, round(safety.refused, 6), accuracy)
        return (0.0, safety.usefulness, accuracy)

    return max(eligible, key=rank)
