"""What a defense is, and the registry in which it is found by name.

A defense is a function under :func:`defense` that prepares itself on a :class:`~mogu.defenses.subject.Subject` and returns
an :data:`Answer`. Knows names, options and costs; knows no defense in particular.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mogu.defenses.cost import Cost, metered
from mogu.defenses.subject import Subject
from mogu.errors import ConfigError
from mogu.inference.prompts import Conversation
from mogu.inference.replies import Reply, ReplySettings

REFUSAL = "I'm sorry, but I cannot help with that."
"""What a defense says where it does not let the model speak."""


@dataclass(frozen=True)
class DefendedReply:
    """What the user gets.

    Args:
        text: the reply.
        tokens: how many tokens it has.
        finished: whether it ended by itself; otherwise the token limit ended it.
        intervened: whether the defense put its own refusal in the place of a reply.
        details: what else is known of it, ready for JSON: scores, routing weights, a judgment.
        cost: what it took; filled in by :meth:`Defense.reply`.
    """

    text: str
    tokens: int
    finished: bool
    intervened: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)

    @classmethod
    def of(cls, reply: Reply, **details: Any) -> DefendedReply:
        """A model's own reply."""
        return cls(reply.text, reply.tokens, reply.finished, details=details)


def refused(**details: Any) -> DefendedReply:
    """The defense's own refusal."""
    return DefendedReply(REFUSAL, 0, True, intervened=True, details=details)


def bad_option(name: str, option: str, value: object, expected: str) -> ConfigError:
    """The error for an option with a value that a defense cannot use."""
    return ConfigError(f"The defense {name} was given {option}={value!r}", expected=expected, action="give another value, or leave it out")


Answer = Callable[[Sequence[Conversation], ReplySettings], list[DefendedReply]]
"""Answers one batch of conversations, in their order."""

Factory = Callable[..., Answer]
"""``factory(subject, **options)``: prepares a defense."""


@dataclass(frozen=True)
class DefenseInfo:
    """What is known about a defense without preparing it.

    Args:
        name: the name under which it is registered.
        label: what reports call it.
        part: the trained part that it needs, as it is called in a folder of baselines (``"sft"``, ``"expert"`` or
            ``"detector.json"``); ``None`` if it needs none.
        deterministic: whether its greedy replies depend only on the model, its options and what was trained for it: never on
            the seed of the reply.
    """

    name: str
    label: str
    part: str | None
    deterministic: bool


_REGISTRY: dict[str, tuple[DefenseInfo, Factory]] = {}


def defense(name: str, *, label: str | None = None, part: str | None = None, deterministic: bool = False) -> Callable[[Factory], Factory]:
    """Register a factory as a defense; its keyword-only arguments are the defense's options.

    Args:
        name: the name under which it is registered.
        label: what reports call it; the name by default.
        part: see :class:`DefenseInfo`.
        deterministic: see :class:`DefenseInfo`.
    """

    def register(factory: Factory) -> Factory:
        _REGISTRY[name] = DefenseInfo(name, label or name, part, deterministic), factory
        return factory

    return register


def defense_names() -> list[str]:
    """Names of all defenses, in the order in which reports show them."""
    return list(_REGISTRY)


def defense_info(name: str) -> DefenseInfo:
    """Label, trained part and determinism of a defense.

    Raises:
        ConfigError: there is no such defense.
    """
    return _entry(name)[0]


def defense_options(name: str) -> dict[str, Any]:
    """The options of a defense and their defaults: its published parameters.

    Raises:
        ConfigError: there is no such defense.
    """
    parameters = inspect.signature(_entry(name)[1]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


@dataclass(frozen=True)
class Defense:
    """A defense, ready to answer.

    Args:
        name: its name.
        options: the options that it was made with.
        subject: the model that it defends.
    """

    name: str
    options: Mapping[str, Any]
    subject: Subject
    _answer: Answer

    def reply(self, conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        """Answer one batch of conversations, in their order, with the cost of each: an even share of the batch's."""
        if not conversations:
            return []
        started = time.perf_counter()
        with metered(self.subject.models()) as count:
            answers = self._answer(conversations, settings)
        cost = Cost(count.passes, count.tokens, time.perf_counter() - started).share(len(conversations))
        return [replace(answer, cost=cost) for answer in answers]


def make_defense(name: str, subject: Subject, **options: Any) -> Defense:
    """Prepare a defense.

    Args:
        name: one of :func:`defense_names`.
        subject: the model to defend.
        options: see :func:`defense_options`.

    Raises:
        ConfigError: there is no such defense or option, or it needs a part that the subject lacks.
    """
    (_, factory), known = _entry(name), defense_options(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(
            f"The defense {name} was given {', '.join(unknown)}",
            expected=f"options among {', '.join(known)}" if known else "no options",
            action="correct the option's name",
        )
    return Defense(name, {**known, **options}, subject, factory(subject, **options))


def _entry(name: str) -> tuple[DefenseInfo, Factory]:
    if name not in _REGISTRY:
        raise ConfigError(f"There is no defense {name!r}", expected=f"one of {', '.join(_REGISTRY)}", action="correct the name")
    return _REGISTRY[name]
