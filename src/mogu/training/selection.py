"""What a routed model does on held-out records: the measure by which checkpoints and λ are chosen.

Knows models and records; knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from mogu.data import Record, conversation_of
from mogu.inference.prompts import Prompt
from mogu.inference.replies import ReplySettings, replies
from mogu.progress import progress_bars
from mogu.refusals import is_refusal


@dataclass(frozen=True)
class Behavior:
    """Rates on the dev records, each in [0, 1].

    Args:
        malicious_refused: share of malicious prompts whose reply is a refusal, in full or in part.
        benign_answered: share of benign prompts whose reply is neither.
        malicious: how many malicious prompts there were.
        benign: how many benign ones.
    """

    malicious_refused: float
    benign_answered: float
    malicious: int
    benign: int

    @property
    def merit(self) -> float:
        """Mean of the two rates: a refusal missed and an answer refused weigh the same."""
        return (self.malicious_refused + self.benign_answered) / 2


def spans(layers: Sequence[int]) -> str:
    """Layer indices in order, in short: ``"0-3+6"``."""
    starts = [layer for layer in layers if layer - 1 not in layers]
    ends = [layer for layer in layers if layer + 1 not in layers]
    return "+".join(str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True))


@dataclass(frozen=True)
class Choice:
    """One combination to be tried.

    Args:
        glad_step: training step of the glad responder.
        unwill_step: of the unwill responder.
        weight_penalty: ``λ``.
        layers: the decoder layers that are routed, where the run compares several sets of them.
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
        """Its name as a folder."""
        layers = f"layers-{spans(self.layers)}-" if self.layers is not None else ""
        return f"{layers}glad-{self.glad_step}-unwill-{self.unwill_step}-penalty-{self.weight_penalty:g}"


@dataclass(frozen=True)
class Candidate:
    """A combination that was tried.

    Args:
        choice: which one.
        unwill_offset: what was added to its unwill logits.
        dial: ``δ`` that it was tried at.
        behavior: what the routed model did on the dev records.
        separation: mean malicious score of malicious prompts less that of benign ones; breaks ties.
    """

    choice: Choice
    unwill_offset: float
    dial: float
    behavior: Behavior
    separation: float

    def __str__(self) -> str:
        return f"{self.choice}, offset {self.unwill_offset:g}, δ {self.dial:g}"

    def row(self) -> dict[str, Any]:
        """The candidate as a row of the saved table."""
        return {
            **asdict(self.choice),
            "unwill_offset": self.unwill_offset,
            "dial": self.dial,
            **asdict(self.behavior),
            "merit": self.behavior.merit,
            "separation": self.separation,
        }


def best(candidates: Sequence[Candidate], base: Behavior, max_benign_loss: float | None) -> Candidate:
    """The candidate to keep; among equals the one whose scores separate the labels most, then the first.

    Args:
        candidates: what was tried.
        base: what the base model does on the same records.
        max_benign_loss: ``None`` keeps the one of most merit. Otherwise only those count whose share of benign prompts
            answered is at most this much below the base model's: of them the one that refuses most malicious prompts is
            kept, and where there are none, the one that answers most benign ones.
    """

    def rank(one: Candidate) -> tuple[float, ...]:
        seen = one.behavior
        first: tuple[float, ...]
        if max_benign_loss is None:
            first = (seen.merit,)
        elif base.benign_answered - seen.benign_answered <= max_benign_loss + 1e-9:
            first = (1.0, seen.malicious_refused, seen.benign_answered)
        else:
            first = (0.0, seen.benign_answered, seen.malicious_refused)
        return tuple(round(number, 6) for number in (*first, one.separation))

    return max(candidates, key=rank)


def behavior_on(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    *,
    max_new_tokens: int,
    batch_size: int,
    system_prompt: str | None = None,
    title: str = "replies",
) -> tuple[Behavior, list[str]]:
    """Let a model reply to records, greedily, and count refusals; replies come in the records' order.

    Args:
        model: a base model or a routed one.
        tokenizer: its tokenizer.
        records: the prompts; their answers are not looked at.
        max_new_tokens: tokens of each reply.
        batch_size: replies at a time.
        system_prompt: the recipe's.
        title: for the progress bar.
    """
    prompts = [conversation_of(record, system_prompt) for record in records]
    texts = shown_replies(model, tokenizer, prompts, ReplySettings(max_new_tokens), batch_size=batch_size, title=title)
    refused = {"benign": 0, "malicious": 0}
    counts = {"benign": 0, "malicious": 0}
    for record, reply in zip(records, texts, strict=True):
        counts[record.label] += 1
        refused[record.label] += is_refusal(record.request, reply)
    behavior = Behavior(
        malicious_refused=refused["malicious"] / counts["malicious"],
        benign_answered=1 - refused["benign"] / counts["benign"],
        malicious=counts["malicious"],
        benign=counts["benign"],
    )
    return behavior, texts


def shown_replies(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    settings: ReplySettings,
    *,
    batch_size: int,
    title: str,
) -> list[str]:
    """Texts of a model's replies, in the prompts' order, under a progress bar."""
    with progress_bars() as progress:
        task = progress.add_task(title, total=len(prompts), note="replies")
        made = replies(model, tokenizer, prompts, settings, batch_size=batch_size, advance=lambda count: progress.advance(task, count))
    return [reply.text for reply in made]
