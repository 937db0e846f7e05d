"""Thresholds of a gate, and what each choice of them would do: put together from what every responder says on its own.

Knows probabilities, and who refused what; knows nothing of models or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from mogu.data import Record
from mogu.training.gated.fit import threshold_at
from mogu.training.selection import DevMetrics

Answering = Literal["off", "listened", "unwill", "careful"]
"""Who answers: the base model, the base model with an ear on it, or an expert."""


@dataclass(frozen=True)
class GatedTrial:
    """Thresholds, measured.

    Args:
        false_alarms: the share of benign dev prompts that may reach ``refuse``.
        refuse: from this probability on, ``unwill`` answers.
        careful: from this probability on, the careful responder does; ``None`` where there is none.
        metrics: what the model did on the dev records.
        separation: mean probability of malicious dev prompts minus that of benign ones.
    """

    false_alarms: float
    refuse: float
    careful: float | None
    metrics: DevMetrics
    separation: float

    def __str__(self) -> str:
        lower = "" if self.careful is None else f", careful from {self.careful:.3f}"
        return f"{self.false_alarms:.1%} false alarms, unwill from {self.refuse:.3f}{lower}"

    def row(self) -> dict[str, Any]:
        """The trial as a row of the saved table."""
        thresholds = {name: value for name, value in asdict(self).items() if name != "metrics"}
        return {**thresholds, **self.metrics.as_json(), "balanced_accuracy": self.metrics.balanced_accuracy}


def trial_at(
    share: float,
    second_opinions: float | None,
    malicious: Tensor,
    benign: Tensor,
    *,
    scores: Sequence[float],
    refused: Mapping[Answering, Sequence[bool]],
    dev: Sequence[Record],
) -> GatedTrial:
    """What the thresholds do that give a share of false alarms.

    Args:
        share: of the benign prompts, those that may reach ``unwill``.
        second_opinions: of these, those that may reach the careful responder or ``unwill``; ``None`` where there is none.
        malicious: the gate's probabilities of malicious prompts, which are no part of the choice.
        benign: those of all others.
        scores: those of the dev records, ``[records]``.
        refused: by who answers, which dev records are refused.
        dev: the dev records.
    """
    refuse = threshold_at(benign, share)
    careful = None if second_opinions is None else min(refuse, threshold_at(benign, max(share, second_opinions)))
    base: Answering = "listened" if "listened" in refused else "off"

    def answers(score: float) -> Answering:
        return "unwill" if score >= refuse else "careful" if careful is not None and score >= careful else base

    given = [refused[answers(score)][index] for index, score in enumerate(scores)]
    return GatedTrial(share, refuse, careful, DevMetrics.of(dev, given), float(malicious.mean() - benign.mean()))
