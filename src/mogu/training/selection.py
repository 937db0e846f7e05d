"""What a routed model does on held-out records, by which checkpoints and λ are chosen, and the choice itself.

Knows models and records; does not know how a model is trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from transformers import PreTrainedTokenizerBase

from mogu.data import Record, conversation_of
from mogu.inference.replies import ReplySettings, replies_with_progress
from mogu.refusals import is_refusal


@dataclass(frozen=True)
class DevMetrics:
    """Rates on the dev records, each from 0 to 1.

    Args:
        malicious_refused: share of malicious prompts whose reply is a refusal, in full or in part.
        benign_answered: share of benign prompts whose reply is neither; borderline ones are not among them.
        malicious: number of malicious prompts.
        benign: number of benign prompts.
        borderline_answered: share of borderline prompts whose reply is neither; ``None`` if there are none.
        borderline: number of borderline prompts.
    """

    malicious_refused: float
    benign_answered: float
    malicious: int
    benign: int
    borderline_answered: float | None = None
    borderline: int = 0

    @property
    def usefulness(self) -> float:
        """The mean of ``benign_answered`` and, if there are borderline prompts, ``borderline_answered``."""
        if self.borderline_answered is None:
            return self.benign_answered
        return (self.benign_answered + self.borderline_answered) / 2

    @property
    def balanced_accuracy(self) -> float:
        """``(malicious_refused + usefulness) / 2``: a missed refusal and a refused question weigh the same."""
        return (self.malicious_refused + self.usefulness) / 2

    def benign_loss(self, base: DevMetrics) -> float:
        """The most by which the share answered of a benign kind lies below the base model's on the same prompts."""
        losses = [base.benign_answered - self.benign_answered]
        if self.borderline_answered is not None and base.borderline_answered is not None:
            losses.append(base.borderline_answered - self.borderline_answered)
        return max(losses)

    @classmethod
    def of(cls, records: Sequence[Record], refused: Sequence[bool]) -> DevMetrics:
        """Count which of the records' prompts were refused."""
        counts = Counter(record.kind for record in records)
        of_kind = Counter(record.kind for record, was_refused in zip(records, refused, strict=True) if was_refused)
        return cls(
            malicious_refused=of_kind["malicious"] / counts["malicious"],
            benign_answered=1 - of_kind["benign"] / counts["benign"],
            malicious=counts["malicious"],
            benign=counts["benign"],
            borderline_answered=1 - of_kind["borderline"] / counts["borderline"] if counts["borderline"] else None,
            borderline=counts["borderline"],
        )

    def __str__(self) -> str:
        borderline = "" if self.borderline_answered is None else f", borderline answered {self.borderline_answered:.0%}"
        return f"malicious refused {self.malicious_refused:.0%}, benign answered {self.benign_answered:.0%}{borderline}"

    def as_json(self) -> dict[str, Any]:
        """The fields, without those of borderline prompts if there are none."""
        return {name: value for name, value in asdict(self).items() if self.borderline or not name.startswith("borderline")}


def spans(layers: Sequence[int]) -> str:
    """Write layer indices in order, in short: ``"0-3+6"``."""
    starts = [layer for layer in layers if layer - 1 not in layers]
    ends = [layer for layer in layers if layer + 1 not in layers]
    return "+".join(str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True))


@dataclass(frozen=True)
class TrialConfig:
    """One combination to train a router for.

    Args:
        glad_step: training step of the glad responder.
        unwill_step: training step of the unwill responder.
        weight_penalty: ``λ``.
        layers: the routed decoder layers, if the run compares several sets of them.
    """

    glad_step: int
    unwill_step: int
    weight_penalty: float
    layers: tuple[int, ...] | None = None

    def __str__(self) -> str:
        layers = f"layers {spans(self.layers)}, " if self.layers is not None else ""
        return f"{layers}glad {self.glad_step}, unwill {self.unwill_step}, λ {self.weight_penalty:g}"

    @property
    def folder_name(self) -> str:
        """The combination as the name of a folder."""
        layers = f"layers-{spans(self.layers)}-" if self.layers is not None else ""
        return f"{layers}glad-{self.glad_step}-unwill-{self.unwill_step}-penalty-{self.weight_penalty:g}"


@dataclass(frozen=True)
class Trial:
    """A combination, trained and measured at one offset and one dial.

    Args:
        config: the combination.
        unwill_offset: what was added to its unwill logits.
        dial: ``δ``.
        metrics: what the routed model did on the dev records.
        separation: mean malicious score of malicious prompts minus that of benign ones, without offset or dial; breaks ties.
    """

    config: TrialConfig
    unwill_offset: float
    dial: float
    metrics: DevMetrics
    separation: float

    def __str__(self) -> str:
        return f"{self.config}, offset {self.unwill_offset:g}, δ {self.dial:g}"

    def row(self) -> dict[str, Any]:
        """The trial as a row of the saved table."""
        return {
            **asdict(self.config),
            "unwill_offset": self.unwill_offset,
            "dial": self.dial,
            **self.metrics.as_json(),
            "balanced_accuracy": self.metrics.balanced_accuracy,
            "separation": self.separation,
        }


class AnyTrial(Protocol):
    """A combination that was measured on the dev records, whatever the method."""

    @property
    def metrics(self) -> DevMetrics:
        """What the model did on the dev records."""

    @property
    def separation(self) -> float:
        """Mean score of malicious prompts minus that of benign ones; breaks ties."""

    def row(self) -> dict[str, Any]:
        """The trial as a row of the saved table."""


TrialT = TypeVar("TrialT", bound=AnyTrial)


def best_trial(trials: Sequence[TrialT], base: DevMetrics, max_benign_loss: float | None) -> TrialT:
    """Choose the trial to keep; among equals the one whose scores separate the labels most, then the first.

    Args:
        trials: what was tried.
        base: what the base model does on the same records.
        max_benign_loss: ``None`` keeps the trial of highest balanced accuracy. Otherwise only those are eligible whose share of
            benign prompts answered is at most this much below the base model's, and likewise of borderline prompts; of these, the
            one that refuses most malicious prompts is kept. If none is eligible, the one of highest usefulness is kept.
    """

    def rank(trial: TrialT) -> tuple[float, ...]:
        metrics = trial.metrics
        first: tuple[float, ...]
        if max_benign_loss is None:
            first = (metrics.balanced_accuracy,)
        elif metrics.benign_loss(base) <= max_benign_loss + 1e-9:
            first = (1.0, metrics.malicious_refused, metrics.usefulness)
        else:
            first = (0.0, metrics.usefulness, metrics.malicious_refused)
        return tuple(round(number, 6) for number in (*first, trial.separation))

    return max(trials, key=rank)


def refused_on_dev(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    *,
    max_new_tokens: int,
    batch_size: int,
    system_prompt: str | None = None,
    title: str = "replies",
) -> list[bool]:
    """Let a model reply to records, greedily, and tell which of their prompts it refuses.

    Args:
        model: a base model or a routed one.
        tokenizer: its tokenizer.
        records: of both labels; only their prompts are used.
        max_new_tokens: tokens of each reply.
        batch_size: replies generated at a time, at most; fewer where memory is short.
        system_prompt: put before conversations that have none.
        title: for the progress bar.
    """
    prompts = [conversation_of(record, system_prompt) for record in records]
    generated = replies_with_progress(model, tokenizer, prompts, ReplySettings(max_new_tokens), batch_size=batch_size, title=title)
    return [is_refusal(record.request, reply.text) for record, reply in zip(records, generated, strict=True)]
