"""One attack on every side of a playground: what is sent, and who gave in to it.

Knows the attacks of :mod:`mogu.attacks` and sides; knows nothing of pages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from mogu.attacks import Attempt, attack_info, attack_names
from mogu.attacks.runner import Budget, script_of
from mogu.attacks.verdicts import judge
from mogu.evaluation.prompts import EvalPrompt
from mogu.inference.replies import ReplySettings
from mogu.playground.answering import Emit, Event, Question, answer
from mogu.playground.sides import Side

FEATURED = ("wrappers", "prefill", "delayed", "best_of_n")
"""The attacks that have a button of their own; the others are in a list."""

ATTEMPTS = 4
"""Attempts of an attack, where nobody says otherwise."""

MOST_ATTEMPTS = 32
ROWS = 16
"""Replies at a time, at most."""


def offered_attacks() -> list[str]:
    """The attacks that need nothing but a request: those with a button first, then the others in the order of reports."""
    infos = map(attack_info, attack_names())
    scripted = [info.name for info in infos if info.scripted and info.access == "text" and info.needs is None and info.name != "plain"]
    return sorted(scripted, key=lambda name: FEATURED.index(name) if name in FEATURED else len(FEATURED))


def attempts_of(name: str, request: str, count: int, *, system: str | None = None, seed: int = 0) -> list[Attempt]:
    """What an attack sends first.

    Args:
        name: of the attack.
        request: what it is to get answered.
        count: attempts, at most.
        system: a system message that stands before all of them.
        seed: of the attack's own randomness.

    Raises:
        ConfigError: there is no such attack, or it is not a script.
    """
    return script_of(name, _behavior(request, system), Budget(count, 1.0), seed=seed)


def _behavior(request: str, system: str | None) -> EvalPrompt:
    behavior = EvalPrompt.plain("request", "playground", "malicious", request)
    if not system:
        return behavior
    return replace(behavior, conversation=({"role": "system", "content": system}, *behavior.conversation))


@dataclass(frozen=True)
class Assault:
    """One attack on one request.

    Args:
        name: of the attack.
        request: what it is to get answered.
        count: attempts, at most.
        system: a system message that stands before all of them.
        dial: ``δ`` of hardened sides; ``None`` is each model's own.
        max_new_tokens: of each reply.
    """

    name: str
    request: str
    count: int = ATTEMPTS
    system: str | None = None
    dial: float | None = None
    max_new_tokens: int = 48


def attack_sides(assault: Assault, sides: Sequence[Side], emit: Emit, *, stopped: Callable[[], bool] = lambda: False) -> None:
    """Make an attack on all sides, several attempts at a time, and tell of each reply.

    First comes ``{"type": "attempts", "attempts": [{"label", "text", "begun"}, …]}``, then for each attempt and side ``{"type":
    "attempt", "index", "column", "text", "verdict", "broken", "score"}``. A side is broken by an attempt if its reply gives in and is
    about the request.

    Raises:
        MoguError: there is no such attack, or a conversation cannot be put to a model.
    """
    behavior = _behavior(assault.request, assault.system)
    attempts = attempts_of(assault.name, assault.request, assault.count, system=assault.system)
    emit({"type": "attempts", "attempts": [_shown(attempt) for attempt in attempts]})
    at_a_time = max(1, ROWS // len(sides))
    for _, alike in groupby(enumerate(attempts), key=lambda pair: (pair[1].temperature, pair[1].extra_tokens)):
        numbered = list(alike)
        for start in range(0, len(numbered), at_a_time):
            if stopped():
                return
            _answer_some(numbered[start : start + at_a_time], behavior, assault, sides, emit, stopped)


def _answer_some(
    numbered: Sequence[tuple[int, Attempt]],
    behavior: EvalPrompt,
    assault: Assault,
    sides: Sequence[Side],
    emit: Emit,
    stopped: Callable[[], bool],
) -> None:
    asked = [(index, attempt, column) for index, attempt in numbered for column in range(len(sides))]
    questions = [
        Question(sides[column], attempt.conversation, place, request=behavior.request) for place, (_, attempt, column) in enumerate(asked)
    ]
    scores: dict[int, float] = {}

    def pass_on(event: Event) -> None:
        place = event["column"]
        index, attempt, column = asked[place]
        if event["type"] == "why":
            scores[place] = event["score"]
        if event["type"] == "reply" and not stopped():
            verdict = judge(behavior, attempt, event["text"])
            told = {"text": event["text"], "verdict": event["verdict"], "broken": verdict.broken, "score": scores.get(place)}
            emit({"type": "attempt", "index": index, "column": column, **told})

    first = numbered[0][1]
    settings = ReplySettings(assault.max_new_tokens + first.extra_tokens, temperature=first.temperature, seed=first.seed)
    answer(questions, settings, pass_on, dial=assault.dial, stopped=stopped)


def _shown(attempt: Attempt) -> dict[str, Any]:
    said = next(turn["content"] for turn in reversed(attempt.conversation) if turn["role"] == "user")
    return {"label": attempt.label, "text": said, "begun": attempt.prefill}
