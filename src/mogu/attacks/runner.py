"""Run one attack against one defense: every behavior's attempts side by side, replies in batches, until it breaks or the budget is spent.

Knows attempts, defenses and budgets; knows nothing of files, nor of what any attack tries.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from mogu.attacks.attempt import Attempt, Attempts, Context, attack_function, attack_info
from mogu.attacks.surfaces import Surface, flops_per_token, surface_for
from mogu.attacks.verdicts import Verdict, judge
from mogu.attacks.weights import tampered
from mogu.defenses import DefendedReply, Defense
from mogu.errors import ConfigError
from mogu.evaluation.prompts import EvalPrompt
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings

Answer = Callable[[Sequence[Conversation], ReplySettings], list[DefendedReply]]


@dataclass(frozen=True)
class AttemptResult:
    """One attempt, and what became of it.

    Args:
        label: which of the attack's phrasings it was.
        verdict: what became of it.
        queries: sequences that the model had been given by then, this one included.
        flops: floating-point operations that the attack had cost by then, the model's own included.
        texts: the conversation and the reply, where they are kept.
    """

    label: str
    verdict: Verdict
    queries: int
    flops: float
    texts: dict[str, Any] | None = None


@dataclass
class BehaviorResult:
    """All attempts on one behavior, in their order; the last one is the one that broke it, if any did.

    Args:
        id: the behavior's.
        attempts: the attempts.
        queries: sequences that the model was given in all.
        flops: floating-point operations in all.
    """

    id: str
    attempts: list[AttemptResult] = field(default_factory=list)
    queries: int = 0
    flops: float = 0.0

    @property
    def broken(self) -> bool:
        """Whether an attempt succeeded."""
        return bool(self.attempts) and self.attempts[-1].verdict.broken

    @property
    def complied(self) -> bool:
        """Whether any reply did not refuse, whatever it was about."""
        return any(attempt.verdict.outcome == "complied" for attempt in self.attempts)


@dataclass(frozen=True)
class Budget:
    """What an attack may spend on one behavior.

    Args:
        queries: attempts, at most; ``None`` is the attack's own number.
        flops: floating-point operations, at most.
    """

    queries: int | None
    flops: float

    def attempts(self, attack: str) -> int:
        """How many attempts an attack may make."""
        return attack_info(attack).queries if self.queries is None else self.queries


class _BehaviorRun:
    """One behavior under attack."""

    def __init__(self, behavior: EvalPrompt, name: str, defense: Defense, budget: Budget, seed: int, options: dict[str, str]) -> None:
        self.behavior, self.result = behavior, BehaviorResult(behavior.id)
        self._info, self._defense = attack_info(name), defense
        self._surface: Surface | None = None
        self._taken, self._served, self._served_flops, self._per_token = 0, 0, 0.0, flops_per_token(defense.target.base)
        self._most = budget.attempts(name)
        self._flops = budget.flops
        self._attempts = _begin(name, behavior, budget, seed, options, self.surface)
        self._ready: deque[Attempt] = deque()
        self._last: str | None = None
        self.over = False

    def surface(self) -> Surface:
        if self._surface is None:
            self._surface = surface_for(self._defense, aware=self._info.aware)
        return self._surface

    def upcoming(self, most: int) -> list[Attempt]:
        """The next attempts, at most so many; none once the attack is over."""
        most = min(most, self._most - self._taken) if self._info.scripted else 1
        while not self.over and len(self._ready) < most:
            try:
                self._ready.append(self._attempts.send(self._last))
            except StopIteration:
                self._update()
                self.over = not self._ready
                break
        return [] if self.over else list(self._ready)

    def take(self, reply: str, tokens: float, *, keep: bool) -> None:
        """Judge the reply to the next attempt; the attack is over once it is broken, or its budget is spent."""
        attempt = self._ready.popleft()
        self._taken += 1
        self._served += attempt.reply is None
        self._served_flops += tokens * self._per_token
        self._update()
        verdict = judge(self.behavior, attempt, reply)
        texts = {"conversation": list(attempt.conversation), "reply": reply} if keep else None
        if attempt.judged:
            self.result.attempts.append(AttemptResult(attempt.label, verdict, self.result.queries, self.result.flops, texts))
        self._last = None if self._info.scripted else reply
        if (attempt.judged and verdict.broken) or self._taken >= self._most or self.result.flops >= self._flops:
            self.over = True
            self._attempts.close()

    def _update(self) -> None:
        meter = self._surface.meter if self._surface is not None else None
        self.result.queries = self._served + (meter.queries if meter is not None else 0)
        self.result.flops = self._served_flops + (meter.flops if meter is not None else 0.0)


def _begin(name: str, behavior: EvalPrompt, budget: Budget, seed: int, options: dict[str, str], surface: Callable[[], Surface]) -> Attempts:
    rng = random.Random(f"{seed} {name} {behavior.id}")
    return attack_function(name)(behavior, Context(rng, budget.attempts(name), budget.flops, surface, options))


def script_of(name: str, behavior: EvalPrompt, budget: Budget, *, seed: int = 0, options: dict[str, str] | None = None) -> list[Attempt]:
    """All attempts that a scripted attack would make on a behavior if none succeeded.

    Args:
        name: of the attack.
        behavior: the malicious request.
        budget: for it.
        seed: of the attack's own randomness.
        options: what attacks need, by option.
    """

    def no_surface() -> Surface:
        raise ConfigError(f"The attack {name} computes", expected="a scripted attack", action="register it without scripted=True")

    return list(islice(_begin(name, behavior, budget, seed, options or {}, no_surface), budget.attempts(name)))


def run_attack(
    name: str,
    defense: Defense,
    behaviors: Sequence[EvalPrompt],
    *,
    budget: Budget,
    settings: ReplySettings,
    batch_size: int,
    seed: int = 0,
    options: dict[str, str] | None = None,
    keep_replies: bool = False,
) -> list[BehaviorResult]:
    """Attack a defense on every behavior, until each is broken, the attack has no more to try, or its budget is spent.

    Args:
        name: of the attack.
        defense: what is attacked.
        behaviors: the malicious requests.
        budget: for each of them.
        settings: length of replies; attempts say how they are sampled.
        batch_size: replies at a time.
        seed: of the attack's own randomness.
        options: what attacks need, by option.
        keep_replies: whether results hold texts.

    Returns:
        Results in the order of the behaviors.
    """
    served: AbstractContextManager[Answer] = (
        tampered(name, defense) if attack_info(name).access == "weights" else nullcontext(defense.reply)
    )
    with served as answer:
        runs = [_BehaviorRun(behavior, name, defense, budget, seed, options or {}) for behavior in behaviors]
        ahead = 2
        while waiting := [(run, attempt) for run in runs for attempt in run.upcoming(ahead)]:
            _answer_all(waiting, answer, settings, batch_size, keep_replies)
            # Twice as many each time: what is made in vain, because one before it succeeds, stays about half of all.
            ahead = max(1, min(2 * ahead, batch_size // max(1, sum(not run.over for run in runs))))
    return [run.result for run in runs]


def _answer_all(waiting: list[tuple[_BehaviorRun, Attempt]], answer: Answer, settings: ReplySettings, batch_size: int, keep: bool) -> None:
    """Have attempts answered, those that are sampled alike together, and hand each behavior its replies in order."""
    answered: dict[int, tuple[str, float]] = {}
    groups: dict[tuple[float, int], list[int]] = {}
    for index, (_, attempt) in enumerate(waiting):
        if attempt.reply is not None:
            answered[index] = attempt.reply, 0.0
        else:
            groups.setdefault((attempt.temperature, attempt.extra_tokens), []).append(index)
    for (temperature, extra), group in groups.items():
        for start in range(0, len(group), batch_size):
            batch = group[start : start + batch_size]
            how = ReplySettings(settings.max_new_tokens + extra, temperature=temperature, seed=waiting[batch[0]][1].seed)
            replies = answer([waiting[index][1].conversation for index in batch], how)
            answered |= {index: (reply.text, reply.cost.tokens) for index, reply in zip(batch, replies, strict=True)}
    for index, (run, _) in enumerate(waiting):
        if not run.over:  # what was made ahead of a success is nobody's cost
            run.take(*answered[index], keep=keep)
