"""What a playground does for the people in it: each wish is a job in a thread of its own, which can be stopped at any token.

Knows sides and wishes; knows nothing of connections or pages.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from logging import getLogger
from typing import Any

from mogu.attacks import attack_info
from mogu.errors import ConfigError, MoguError
from mogu.inference.replies import ReplySettings
from mogu.playground.answering import Emit, Question, answer
from mogu.playground.attacking import FEATURED, Assault, attack_sides, offered_attacks
from mogu.playground.frontier import Frontier, frontier_of
from mogu.playground.presets import PRESETS
from mogu.playground.prompt_file import ask_all, read_prompt_file
from mogu.playground.sides import Side
from mogu.playground.wishes import Ask, AskAll, Attack, Stop
from mogu.playground.wishes import Frontier as FrontierWish

logger = getLogger(__name__)


class Playground:
    """Everything that is tried out in a playground, for any number of threads.

    Args:
        sides: who can be asked; the first two are what a page begins with.
    """

    def __init__(self, sides: Sequence[Side]) -> None:
        self.sides = {side.name: side for side in sides}
        self._busy = _Busy()
        self._frontiers: dict[str, Frontier | None] = {}
        self._frontier_lock = threading.Lock()

    def describe(self) -> dict[str, Any]:
        """What a page has to know to begin: who can be asked, which attacks there are, and presets."""
        return {
            "sides": [_described(side) for side in self.sides.values()],
            "attacks": [{"name": name, "label": attack_info(name).label, "featured": name in FEATURED} for name in offered_attacks()],
            "presets": [{"kind": preset.kind, "text": preset.text} for preset in PRESETS],
        }

    def run(self, wish: Ask | Attack | AskAll | FrontierWish | Stop, emit: Emit, stopped: Callable[[], bool]) -> None:
        """Do what was asked for; the last event is ``{"type": "done"}``, or ``{"type": "error", "message"}`` where it failed."""
        try:
            self._do(wish, emit, stopped)
        except MoguError as error:
            emit({"type": "error", "message": str(error)})
        except Exception as error:  # whatever a model raises: the others in the playground go on
            logger.exception("A job of the playground failed")
            emit({"type": "error", "message": f"The model failed: {type(error).__name__}: {error}"})
        else:
            emit({"type": "done", "stopped": stopped()})

    def _do(self, wish: Ask | Attack | AskAll | FrontierWish | Stop, emit: Emit, stopped: Callable[[], bool]) -> None:
        match wish:
            case Ask():
                opening = [{"role": "system", "content": wish.system}] if wish.system else []
                questions = [
                    Question(self._side(column.side), [*opening, *(turn.model_dump() for turn in column.turns)], column.column)
                    for column in wish.columns
                ]
                settings = ReplySettings(wish.max_new_tokens, temperature=wish.temperature, seed=wish.seed)
                with self._busy:
                    answer(questions, settings, emit, dial=wish.dial, stopped=stopped)
            case Attack():
                assault = Assault(wish.name, wish.request, wish.count, wish.system or None, wish.dial, wish.max_new_tokens)
                with self._busy:
                    attack_sides(assault, [self._side(name) for name in wish.sides], emit, stopped=stopped)
            case AskAll():
                sides, prompts = [self._side(name) for name in wish.sides], read_prompt_file(wish.name, wish.text)
                emit({"type": "prompts", "count": len(prompts)})
                how: dict[str, Any] = {"system": wish.system or None, "dial": wish.dial, "max_new_tokens": wish.max_new_tokens}
                with self._busy:
                    ask_all(prompts, sides, emit, stopped=stopped, **how)
            case FrontierWish():
                frontier = self._frontier(self._side(wish.side), stopped)
                emit({"type": "frontier", "side": wish.side, "frontier": None if frontier is None else frontier.as_json()})

    def _frontier(self, side: Side, stopped: Callable[[], bool]) -> Frontier | None:
        def wait() -> bool:
            while not stopped():
                if self._busy.wait_until_idle(0.2):
                    return True
            return False

        # One at a time: the second who asks finds what the first has read.
        while not self._frontier_lock.acquire(timeout=0.2):
            if stopped():
                return None
        try:
            if side.name not in self._frontiers:
                frontier = frontier_of(side, wait=wait)
                if stopped():
                    return frontier
                self._frontiers[side.name] = frontier
            return self._frontiers[side.name]
        finally:
            self._frontier_lock.release()

    def _side(self, name: str) -> Side:
        if name not in self.sides:
            raise ConfigError(
                f"There is no side {name!r}",
                expected=f"one of {', '.join(self.sides)}",
                action="load the page again: the playground was restarted",
            )
        return self.sides[name]


class _Busy:
    """Counts the jobs that somebody waits for, so that what nobody waits for can step aside."""

    def __init__(self) -> None:
        self._count, self._changed = 0, threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def wait_until_idle(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._count == 0, seconds)


def _described(side: Side) -> dict[str, Any]:
    described: dict[str, Any] = {"name": side.name, "kind": side.kind, "dial": None, "threshold": None, "method": None}
    if side.hardened is not None:
        config = side.hardened.mogu_config
        described |= {"dial": config.dial, "method": config.method, "threshold": config.gate.refuse if config.gate is not None else None}
    return described
