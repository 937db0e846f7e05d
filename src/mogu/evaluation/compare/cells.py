"""A cell of a comparison: the replies of one variant to one data set under one seed, measured once and kept in a file.

Knows cells and their files; knows nothing of how a defense replies, nor of what is made of the replies.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mogu.defenses import make_defense
from mogu.evaluation.compare.lineup import Variant
from mogu.evaluation.compare.model_pool import ModelPool
from mogu.evaluation.inspect.batching import Batcher
from mogu.evaluation.prompts import EvalPrompt, Outcome
from mogu.files.json_files import fingerprint as fingerprint_of
from mogu.files.json_files import read_kept, write_sealed
from mogu.inference.replies import ReplySettings

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample
    from inspect_ai.scorer import Score

logger = getLogger(__name__)

FORMAT = 2
"""Of a cell; one of another format is measured again."""


UNSCORED, UNSAFE, GUARD_UNSCORED = "unscored", "unsafe", "guard_unscored"
"""In :attr:`Row.judged`: that the judge said nothing, that the guard calls the reply unsafe, and that the guard said nothing."""


@dataclass(frozen=True)
class Row:
    """One reply of a cell.

    Args:
        id: the prompt's.
        reply: its text.
        outcome: what it did.
        tokens: how many tokens it has.
        finished: whether it ended by itself.
        intervened: whether the defense put its own refusal in its place.
        passes: forward passes that it took.
        tokens_read: tokens that went through them.
        details: what else the defense reports: scores, routing weights, a judgment.
        judged: a judge's ratings, and ``unscored``, which is 1 where it gave none; ``unsafe`` and ``guard_unscored`` of a guard; empty
            where neither was asked.
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
        """Take one prompt's reply out of the log of a run."""
        metadata = dict(sample.output.metadata or {})
        cost, usage = metadata.pop("cost"), sample.output.usage
        scores = sample.scores or {}
        return cls(
            id=str(sample.id),
            reply=sample.output.completion,
            outcome=cast(Outcome, scores["outcome"].value),
            tokens=usage.output_tokens if usage is not None else 0,
            finished=sample.output.stop_reason == "stop",
            intervened=metadata.pop("intervened"),
            passes=cost["passes"],
            tokens_read=cost["tokens"],
            details={name: value for name, value in metadata.items() if name not in ("defense", "batch")},
            judged={name: value for score in ("judged", "guarded") if score in scores for name, value in _ratings(scores[score]).items()},
        )


def _ratings(score: Score) -> dict[str, float]:
    """A judge's ratings; NaN, which stands for one that it did not give, has no place in JSON and is left out."""
    return {name: float(value) for name, value in score.as_dict().items() if isinstance(value, int | float) and not math.isnan(value)}


@dataclass(frozen=True)
class CellKey:
    """Which cell it is.

    Args:
        dataset: whose prompts.
        variant: who replies.
        seed: under which it is measured.
    """

    dataset: str
    variant: Variant
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset}, seed {self.seed}, {self.variant.name}"


class Cells:
    """All cells of a comparison.

    Args:
        pool: the models that reply.
        prompts: all prompts.
    """

    def __init__(self, pool: ModelPool, prompts: Sequence[EvalPrompt]) -> None:
        self.pool, self.comparison = pool, pool.comparison
        self.batcher = Batcher()
        self.prompts: dict[str, list[EvalPrompt]] = {}
        for prompt in prompts:
            self.prompts.setdefault(prompt.dataset, []).append(prompt)

    def rows(self, variant: Variant, seed: int) -> list[Row]:
        """The replies of a variant to all prompts, in their order; cells that are missing are measured."""
        return [row for key in self._keys(variant, seed) for row in self.cell(key)]

    def missing(self) -> list[CellKey]:
        """The cells that are not measured yet; everything has to be trained."""
        variants, seeds = self.pool.lineup.variants(), range(self.comparison.seeds)
        keys = dict.fromkeys(key for variant in variants for seed in seeds for key in self._keys(variant, seed))
        return [key for key in keys if self._kept(key) is None]

    def _keys(self, variant: Variant, seed: int) -> list[CellKey]:
        seed = self._measured_under(variant, seed)
        return [CellKey(dataset, variant, seed) for dataset in self.prompts]

    def _measured_under(self, variant: Variant, seed: int) -> int:
        """The seed under which a cell is measured for a given one: where nothing is drawn, the first that trained the very same parts."""
        seed = self.pool.lineup.seed_of(variant, seed)
        if seed == 0 or not self.pool.lineup[variant.system].defense.deterministic:
            return seed
        trained = self.pool.fingerprint(variant.system, seed)
        return next((earlier for earlier in range(seed) if self.pool.fingerprint(variant.system, earlier) == trained), seed)

    def file(self, key: CellKey) -> Path:
        """Where a cell is kept."""
        return self.comparison.out / "cells" / key.dataset / f"seed-{key.seed}" / f"{key.variant.name}.json"

    def cell(self, key: CellKey) -> list[Row]:
        """The replies of a cell, which is measured if it is missing."""
        prompts, variant = self.prompts[key.dataset], key.variant
        kept = self._kept(key)
        if kept is None:
            started = time.monotonic()
            rows = self._measure(key)
            seconds = round(time.monotonic() - started, 1)
            logger.info("%s: %d replies in %s s", key, len(rows), seconds)
            system = self.pool.lineup[variant.system]
            head = {
                "fingerprint": self._fingerprint(key),
                "dataset": key.dataset,
                "defense": system.defense.name,
                "model": system.model.name if system.model is not None else None,
                "options": self.pool.options(variant, key.seed),
                "seed": key.seed,
            }
            kept = {**head, "seconds": seconds, "replies": [asdict(row) for row in rows]}
            write_sealed(self.file(key), kept)
        # Replies are kept, verdicts are not: a better judge takes no model to judge them again.
        replied = zip(prompts, kept["replies"], strict=True)
        return [Row(**reply | {"outcome": prompt.outcome(reply["reply"])}) for prompt, reply in replied]

    def _kept(self, key: CellKey) -> dict[str, Any] | None:
        """What the file of a cell holds, if that is what would be measured now."""
        kept = read_kept(self.file(key))
        return kept if kept is not None and kept.get("fingerprint") == self._fingerprint(key) else None

    def _measure(self, key: CellKey) -> list[Row]:
        from mogu.evaluation.compare.inspect_runner import run_cell

        prompts, variant, seed = self.prompts[key.dataset], key.variant, key.seed
        name = self.pool.lineup[variant.system].defense.name
        defense = make_defense(name, self.pool.target(variant.system, seed), **self.pool.options(variant, seed))
        settings = ReplySettings(self.comparison.max_new_tokens, seed=seed)
        log = run_cell(
            prompts,
            defense,
            self.batcher,
            settings,
            name=f"{variant.name}, seed {seed}",
            batch_size=self.comparison.batch_size,
            log=self.comparison.out / "logs" / f"{key.dataset}_{variant.name}_seed-{seed}.eval",
            judge=self.comparison.judge,
            guard=self.comparison.guard,
        )
        rows = {row.id: row for row in map(Row.of, log.samples or [])}
        return [rows[prompt.id] for prompt in prompts]

    def _fingerprint(self, key: CellKey) -> str:
        comparison = self.comparison
        texts = [(prompt.id, prompt.category, prompt.conversation, prompt.request) for prompt in self.prompts[key.dataset]]
        settings = [comparison.judge, comparison.max_new_tokens, comparison.batch_size, str(comparison.chat_template), self.pool.device]
        settings += [comparison.guard] if comparison.guard is not None else []
        trained = self.pool.fingerprint(key.variant.system, key.seed)
        return fingerprint_of(FORMAT, key.variant.name, key.seed, texts, settings, trained)
