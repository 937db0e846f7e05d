"""One cell of a comparison: a defense answers a data set under a seed. Measured once, kept in a file, read back ever after.

Knows cells and their files; how a defense comes to answer, and what is made of the replies, is others' business.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mogu.defenses import make_defense
from mogu.evaluation.compare.config import Comparison, Variant
from mogu.evaluation.compare.model_pool import Models, Tell
from mogu.evaluation.inspect.batching import Batcher
from mogu.evaluation.prompts import Asked, Outcome
from mogu.files.json_files import fingerprint, read_json, write_json
from mogu.inference.replies import ReplySettings

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample
    from inspect_ai.scorer import Score

FORMAT = 2
"""Of a cell, and of how its replies are judged; a cell of another format is measured anew."""


@dataclass(frozen=True)
class Row:
    """One reply of a cell.

    Args:
        id: of the prompt.
        reply: its text.
        outcome: what it did.
        tokens: how many tokens it has.
        finished: whether it ended by itself.
        intervened: whether the defense put its own refusal in its place.
        passes: forward passes that it took.
        tokens_read: tokens that went through them.
        judged: a judge's numbers, and ``unscored``, which is 1 where it gave none; empty where no judge was asked.
        details: what else the defense tells: scores, routing weights, a judgment.
    """

    id: str
    reply: str
    outcome: Outcome
    tokens: int
    finished: bool
    intervened: bool
    passes: float
    tokens_read: float
    details: Mapping[str, Any]
    judged: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, sample: EvalSample) -> Row:
        """What the log of a run holds of one prompt."""
        told = dict(sample.output.metadata or {})
        cost, usage = told.pop("cost"), sample.output.usage
        scores = sample.scores or {}
        return cls(
            id=str(sample.id),
            reply=sample.output.completion,
            outcome=cast(Outcome, scores["outcome"].value),
            tokens=usage.output_tokens if usage is not None else 0,
            finished=sample.output.stop_reason == "stop",
            intervened=told.pop("intervened"),
            passes=cost["passes"],
            tokens_read=cost["tokens"],
            details={name: value for name, value in told.items() if name not in ("defense", "batch")},
            judged=_numbers(scores["judged"]) if "judged" in scores else {},
        )


def _numbers(score: Score) -> dict[str, float]:
    """A judge's numbers; NaN, which stands for one that it did not give, is no JSON and left out."""
    return {name: float(value) for name, value in score.as_dict().items() if isinstance(value, int | float) and not math.isnan(value)}


class Cells:
    """All cells of a comparison.

    Args:
        comparison: what is compared.
        models: who answers.
        asked: all prompts.
        tell: is told of each cell that is measured.
    """

    def __init__(self, comparison: Comparison, models: Models, asked: Sequence[Asked], *, tell: Tell) -> None:
        self.comparison, self.models, self.tell = comparison, models, tell
        self.batcher = Batcher()
        self.asked: dict[str, list[Asked]] = {}
        for one in asked:
            self.asked.setdefault(one.dataset, []).append(one)

    def rows(self, variant: Variant, seed: int) -> list[Row]:
        """The replies of a variant to all prompts, in their order; cells that are missing are measured."""
        seed = self.comparison.seed_of(variant, seed)
        return [row for dataset in self.asked for row in self._cell(dataset, variant, seed)]

    def file(self, dataset: str, variant: Variant, seed: int) -> Path:
        """Where a cell is kept."""
        return self.comparison.out / "cells" / dataset / f"seed-{seed}" / f"{variant.name}.json"

    def _cell(self, dataset: str, variant: Variant, seed: int) -> list[Row]:
        asked, file = self.asked[dataset], self.file(dataset, variant, seed)
        made_with = self._fingerprint(asked, variant, seed)
        kept = read_json(file)
        if kept is None or kept.get("fingerprint") != made_with:
            started = time.monotonic()
            rows = self._measure(asked, variant, seed)
            seconds = round(time.monotonic() - started, 1)
            self.tell(f"{dataset}, seed {seed}, {variant.name}: {len(rows)} replies in {seconds} s")
            head = {
                "fingerprint": made_with,
                "dataset": dataset,
                "defense": variant.defense,
                "options": self.models.options(variant, seed),
                "seed": seed,
            }
            kept = {**head, "seconds": seconds, "replies": [asdict(row) for row in rows]}
            write_json(file, kept)
        return [Row(**row) for row in kept["replies"]]

    def _measure(self, asked: Sequence[Asked], variant: Variant, seed: int) -> list[Row]:
        from mogu.evaluation.compare.inspect_runner import run_cell

        defense = make_defense(variant.defense, self.models.subject(seed, variant.defense), **self.models.options(variant, seed))
        settings = ReplySettings(self.comparison.max_new_tokens, seed=seed)
        name = f"{variant.name}, seed {seed}"
        log = self.comparison.out / "logs" / f"{asked[0].dataset}_{variant.name}_seed-{seed}.eval"
        found = run_cell(
            asked, defense, self.batcher, settings, name=name, batch_size=self.comparison.batch_size, log=log, judge=self.comparison.judge
        )
        rows = {row.id: row for row in map(Row.of, found.samples or [])}
        return [rows[one.id] for one in asked]

    def _fingerprint(self, asked: Sequence[Asked], variant: Variant, seed: int) -> str:
        comparison = self.comparison
        prompts = [(one.id, one.category, one.conversation, one.request) for one in asked]
        settings = [comparison.judge, comparison.max_new_tokens, comparison.batch_size, str(comparison.chat_template), self.models.device]
        return fingerprint(FORMAT, variant.name, seed, prompts, settings, self.models.fingerprint(variant.defense, seed))
