"""Run one attack against one defense: every behavior's attempts side by side, replies in batches, until it breaks or the budget is spent.

Knows attempts, defenses and budgets; knows nothing of files, nor of what any attack tries.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from mogu.attacks.attempt import Attempt, Attempts, Context, attack_function, attack_info
from mogu.attacks.surfaces import Surface, flops_per_token, surface_for
from mogu.attacks.verdicts import Verdict, judge
from mogu.attacks.weights import tampered
from mogu.defenses import DefendedReply, Defense
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


class _BehaviorRun:
    """One behavior under attack."""

    def __init__(self, behavior: EvalPrompt, name: str, defense: Defense, budget: Budget, seed: int, options: dict[str, str]) -> None:
        self.behavior, self.result = behavior, BehaviorResult(behavior.id)
        self._surface: Surface | None = None
        self._defense, self._aware = defense, attack_info(name).aware
        self._made, self._served, self._served_flops, self._per_token = 0, 0, 0.0, flops_per_token(defense.target.base)
        self._most = attack_info(name).queries if budget.queries is None else budget.queries
        self._flops = budget.flops
        context = Context(random.Random(f"{seed} {name} {behavior.id}"), self._most, budget.flops, self.surface, options)
        self._attempts: Attempts = attack_function(name)(behavior, context)
        self.next: Attempt | None = next(self._attempts, None)
        self._update()

    def surface(self) -> Surface:
        if self._surface is None:
            self._surface = surface_for(self._defense, aware=self._aware)
        return self._surface

    def take(self, reply: str, tokens: float, *, keep: bool) -> None:
        """Judge the reply to the attempt at hand, and move on to the next one, if there is any."""
        attempt = self.next
        assert attempt is not None
        self._served += attempt.reply is None
        self._served_flops += tokens * self._per_token
        self._update()
        verdict = judge(self.behavior, attempt, reply)
        texts = {"conversation": list(attempt.conversation), "reply": reply} if keep else None
        if attempt.judged:
            self.result.attempts.append(AttemptResult(attempt.label, verdict, self.result.queries, self.result.flops, texts))
        self._made += 1
        spent = self._made >= self._most or self.result.flops >= self._flops
        if (attempt.judged and verdict.broken) or spent:
            self.next = None
            self._attempts.close()
            return
        try:
            self.next = self._attempts.send(reply)
        except StopIteration:
            self.next = None
        self._update()

    def _update(self) -> None:
        meter = self._surface.meter if self._surface is not None else None
        self.result.queries = self._served + (meter.queries if meter is not None else 0)
        self.result.flops = self._served_flops + (meter.flops if meter is not None else 0.0)


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
        while waiting := [run for run in runs if run.next is not None]:
            _answer_all(waiting, answer, settings, batch_size, keep_replies)
    return [run.result for run in runs]


def _answer_all(waiting: list[_BehaviorRun], answer: Answer, settings: ReplySettings, batch_size: int, keep: bool) -> None:
    """Have the attempts at hand answered, those that are sampled alike together."""
    groups: dict[tuple[float, int, int], list[_BehaviorRun]] = {}
    for run in waiting:
        attempt = run.next
        assert attempt is not None
        if attempt.reply is not None:
            run.take(attempt.reply, 0.0, keep=keep)
        else:
            groups.setdefault((attempt.temperature, attempt.seed, attempt.extra_tokens), []).append(run)
    for (temperature, sampling_seed, extra), group in groups.items():
        how = ReplySettings(settings.max_new_tokens + extra, temperature=temperature, seed=sampling_seed)
        for start in range(0, len(group), batch_size):
            batch = group[start : start + batch_size]
            replies = answer([run.next.conversation for run in batch if run.next is not None], how)
            for run, reply in zip(batch, replies, strict=True):
                run.take(reply.text, reply.cost.tokens, keep=keep)
