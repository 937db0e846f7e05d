"""A cell of an attack report: one attack on one system, run once and kept in a file, so that a stopped command goes on.

Knows cells and their files; knows nothing of how an attack is run, nor of what is made of the results.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Sequence
from dataclasses import asdict
from logging import getLogger
from pathlib import Path
from typing import Any

from mogu.attacks.attempt import attack_function, attack_info, attack_names
from mogu.attacks.config import AttackSettings
from mogu.attacks.runner import AttemptResult, BehaviorResult, Budget, run_attack, script_of
from mogu.attacks.surfaces import surface_for
from mogu.attacks.verdicts import Verdict
from mogu.attacks.weights import applies as changes_weights
from mogu.defenses import Defense, make_defense
from mogu.evaluation.compare.lineup import Variant
from mogu.evaluation.compare.model_pool import ModelPool
from mogu.evaluation.prompts import EvalPrompt
from mogu.files.json_files import fingerprint, read_kept, write_sealed
from mogu.inference.replies import ReplySettings

logger = getLogger(__name__)

FORMAT = 1
"""Of a cell; one of another format is run again."""

AWARE = "_aware"
"""Ends the name of an attack that knows the defense, and is otherwise called as the one that does not."""


class Cells:
    """All cells of an attack report.

    Args:
        pool: the models that are attacked.
        settings: the settings.
        behaviors: the malicious requests.
    """

    def __init__(self, pool: ModelPool, settings: AttackSettings, behaviors: Sequence[EvalPrompt]) -> None:
        self.pool, self.settings, self.behaviors = pool, settings, behaviors
        self._budget = Budget(settings.queries, settings.flops)
        self._defenses: dict[str, Defense] = {}
        self._what_is_tried: dict[str, str] = {}

    def applies(self, attack: str, system: str) -> bool:
        """Whether an attack has something to do on a system, and something else than the attacks beside it.

        Attacks on weights need the weights that they change, aware ones a defense that can be computed with. On the undefended model an
        aware attack is its blind twin, where it has one.
        """
        info, defense = attack_info(attack), self._defense(system)
        if info.access == "weights":
            return changes_weights(attack, defense)
        if info.access == "text" or not info.aware:
            return True
        has_twin = attack.endswith(AWARE) and attack.removesuffix(AWARE) in attack_names()
        surface = surface_for(defense, aware=True)
        return surface.knows_defense or (surface.kind == defense.name and not has_twin)

    def results(self, attack: str, system: str) -> list[BehaviorResult]:
        """The results of an attack on a system, in the order of the behaviors; what is missing is run."""
        file, done = self.file(attack, system), self._done(attack, system)
        head = {"fingerprint": self._fingerprint(attack, system), "attack": attack, "system": system}
        # Attacks that compute take their time over each behavior, and are kept one by one; the others fill batches.
        step = len(self.behaviors) if attack_info(attack).access != "gradients" else 1
        while len(done) < len(self.behaviors):
            started = time.monotonic()
            more = self._run(attack, system, self.behaviors[len(done) : len(done) + step])
            done += more
            write_sealed(file, {**head, "behaviors": [asdict(result) for result in done]})
            broken, seconds = sum(result.broken for result in more), time.monotonic() - started
            logger.info("%s, %s: %d of %d behaviors, %d broken, %.1f s", system, attack, len(done), len(self.behaviors), broken, seconds)
        return done

    def is_finished(self, attack: str, system: str) -> bool:
        """Whether all results of an attack on a system are kept."""
        return len(self._done(attack, system)) == len(self.behaviors)

    def _done(self, attack: str, system: str) -> list[BehaviorResult]:
        """What is kept of the results, if they are what would be run now."""
        kept = read_kept(self.file(attack, system))
        if kept is None or kept["fingerprint"] != self._fingerprint(attack, system):
            return []
        return [_result(row) for row in kept["behaviors"]]

    def file(self, attack: str, system: str) -> Path:
        """Where a cell is kept."""
        return self.settings.comparison.out / "cells" / system / f"{attack}.json"

    def _run(self, attack: str, system: str, behaviors: Sequence[EvalPrompt]) -> list[BehaviorResult]:
        comparison = self.settings.comparison
        return run_attack(
            attack,
            self._defense(system),
            behaviors,
            budget=self._budget,
            settings=ReplySettings(comparison.max_new_tokens),
            batch_size=comparison.batch_size,
            options=dict(self.settings.options),
            keep_replies=self.settings.keep_replies,
        )

    def _defense(self, system: str) -> Defense:
        if system not in self._defenses:
            name = self.pool.lineup[system].defense.name
            self._defenses[system] = make_defense(name, self.pool.target(system, 0), **self.pool.options(Variant(system), 0))
        return self._defenses[system]

    def _fingerprint(self, attack: str, system: str) -> str:
        settings, comparison = self.settings, self.settings.comparison
        behaviors = [(behavior.id, behavior.conversation, behavior.request, behavior.judge) for behavior in self.behaviors]
        return fingerprint(
            FORMAT,
            attack,
            behaviors,
            self._tried(attack),
            [settings.queries, settings.flops, settings.keep_replies],
            [comparison.max_new_tokens, comparison.batch_size, str(comparison.chat_template), self.pool.device],
            self.pool.fingerprint(system, 0),
        )

    def _tried(self, attack: str) -> str:
        """SHA-256 of what tells an attack from another one of its name: what it sends, or where that depends on replies, its code."""
        if attack not in self._what_is_tried:  # it is the same for every system
            self._what_is_tried[attack] = self._digest(attack)
        return self._what_is_tried[attack]

    def _digest(self, attack: str) -> str:
        if attack_info(attack).scripted:
            options = dict(self.settings.options)
            scripts = [script_of(attack, behavior, self._budget, options=options) for behavior in self.behaviors]
            return fingerprint([[asdict(attempt) for attempt in script] for script in scripts])
        file = inspect.getsourcefile(inspect.unwrap(attack_function(attack)))
        return hashlib.sha256(Path(file).read_bytes() if file is not None else b"").hexdigest()


def _result(row: dict[str, Any]) -> BehaviorResult:
    attempts = [AttemptResult(**attempt | {"verdict": Verdict(**attempt["verdict"])}) for attempt in row["attempts"]]
    return BehaviorResult(row["id"], attempts, row["queries"], row["flops"])
