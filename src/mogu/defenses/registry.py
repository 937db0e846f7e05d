"""The definition of a defense, and the registry that finds defenses by name.

A defense is a function decorated with :func:`defense`. It prepares itself for a
:class:`~mogu.defenses.target_model.TargetModel` and returns an :data:`Answer`. Knows names, options and costs; knows no
particular defense.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mogu.defenses.cost import Cost, count_passes
from mogu.defenses.target_model import TargetModel
from mogu.errors import ConfigError
from mogu.inference.batches import in_batches, rows_in_memory
from mogu.inference.prompts import Conversation
from mogu.inference.replies import Reply, ReplySettings

REFUSAL = "I'm sorry, but I cannot help with that."
"""The reply of a defense that does not let the model answer."""

ENTRY_POINT_GROUP = "mogu.defenses"
"""Entry point group in which installed packages list the modules that register their defenses."""

DEFAULT_ORDER = 50


@dataclass(frozen=True)
class DefendedReply:
    """The reply that the user gets.

    Args:
        text: the reply.
        tokens: its number of tokens.
        finished: whether the reply ended by itself; otherwise the token limit ended it.
        intervened: whether the defense replaced the model's reply by its own refusal.
        details: further facts, ready for JSON, such as scores, routing weights or a judgment.
        cost: the cost of the reply; :meth:`Defense.reply` fills it in.
    """

    text: str
    tokens: int
    finished: bool
    intervened: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)

    @classmethod
    def of(cls, reply: Reply, **details: Any) -> DefendedReply:
        """Pass on a model's own reply."""
        return cls(reply.text, reply.tokens, reply.finished, details=details)


def refused(**details: Any) -> DefendedReply:
    """Refuse in the name of the defense, without a reply of the model."""
    return DefendedReply(REFUSAL, 0, True, intervened=True, details=details)


def bad_option(name: str, option: str, value: object, expected: str) -> ConfigError:
    """Make the error for a value that an option of a defense cannot take."""
    return ConfigError(f"The defense {name} was given {option}={value!r}", expected=expected, action="give another value, or leave it out")


Answer = Callable[[Sequence[Conversation], ReplySettings], list[DefendedReply]]
"""Answers one batch of conversations, in their order."""

Factory = Callable[..., Answer]
"""``factory(target, **options)`` prepares a defense."""


@dataclass(frozen=True)
class DefenseInfo:
    """What is known about a defense without preparing it.

    Args:
        name: the name under which it is registered.
        label: its name in reports.
        part: the trained part that it needs, as it is called in a folder of baselines, such as ``"sft"`` or
            ``"detector.json"``; ``None`` if it needs none.
        deterministic: whether its greedy replies depend only on the model, its options and its trained part, never on the
            seed of the reply settings.
        order: its position in reports, in ascending order: 0 for no defense, 10 to 19 for the baselines, 90 and above for
            MoGU. Defenses with the same number are listed by name.
        routed: whether it needs a hardened model rather than a base model.
        check: raises a :class:`~mogu.errors.MoguError` if a package that it needs, and that MoGU alone does not bring, is not
            installed; a comparison of all defenses then leaves it out. ``None`` if it needs none.
    """

    name: str
    label: str
    part: str | None
    deterministic: bool
    order: int = DEFAULT_ORDER
    routed: bool = False
    check: Callable[[], None] | None = None


_REGISTRY: dict[str, tuple[DefenseInfo, Factory]] = {}


def defense(
    name: str,
    *,
    label: str | None = None,
    part: str | None = None,
    deterministic: bool = False,
    order: int = DEFAULT_ORDER,
    routed: bool = False,
    check: Callable[[], None] | None = None,
) -> Callable[[Factory], Factory]:
    """Register a factory as a defense; its keyword-only arguments are the options of the defense.

    Args:
        name: the name under which it is registered.
        label: its name in reports; ``name`` by default.
        part: see :class:`DefenseInfo`.
        deterministic: see :class:`DefenseInfo`.
        order: see :class:`DefenseInfo`; by default between the baselines and MoGU.
        routed: see :class:`DefenseInfo`.
        check: see :class:`DefenseInfo`.

    Raises:
        ConfigError: another module has registered a defense under this name.
    """

    def register(factory: Factory) -> Factory:
        if name in _REGISTRY and (taken := inspect.unwrap(_REGISTRY[name][1]).__module__) != factory.__module__:
            raise ConfigError(
                f"{factory.__module__} registers the defense {name!r}, which {taken} has registered already",
                expected="a name that no other defense has",
                action="rename the new defense",
            )
        _REGISTRY[name] = DefenseInfo(name, label or name, part, deterministic, order, routed, check), factory
        return factory

    return register


def defense_names() -> list[str]:
    """List the names of all defenses, in the order of reports."""
    _load_installed()
    return sorted(_REGISTRY, key=lambda name: (_REGISTRY[name][0].order, name))


def defense_info(name: str) -> DefenseInfo:
    """Return what is known about a defense without preparing it.

    Raises:
        ConfigError: there is no such defense.
    """
    return _entry(name)[0]


def defense_options(name: str) -> dict[str, Any]:
    """Return the options of a defense with their defaults, which are the published parameters.

    Raises:
        ConfigError: there is no such defense.
    """
    parameters = inspect.signature(_entry(name)[1]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def custom_code_fingerprint(name: str) -> str | None:
    """Return the SHA-256 of the source file of a defense that is not part of MoGU; ``None`` for MoGU's own.

    Measurements of a custom defense are out of date once its code changes.

    Raises:
        ConfigError: there is no such defense.
    """
    factory = inspect.unwrap(_entry(name)[1])
    if factory.__module__.startswith("mogu."):
        return None
    file = inspect.getsourcefile(factory)
    return hashlib.sha256(Path(file).read_bytes() if file is not None else b"").hexdigest()


@dataclass(frozen=True)
class Defense:
    """A defense that is ready to answer.

    Args:
        name: its name.
        options: its options, defaults included.
        target: the model that it protects.
    """

    name: str
    options: Mapping[str, Any]
    target: TargetModel
    _answer: Answer

    def reply(self, conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        """Answer conversations, in their order, in one batch where memory allows; each reply costs an even share of what all cost."""
        if not conversations:
            return []
        started = time.perf_counter()
        lengths = [len(self.target.encode(conversation)) for conversation in conversations]
        with count_passes(self.target.models()) as count:
            answers = in_batches(
                lambda batch: self._answer([conversations[index] for index in batch], settings),
                lengths,
                most=lambda longest: rows_in_memory(self.target.base, longest + settings.max_new_tokens),
            )
        cost = Cost(count.passes, count.tokens, time.perf_counter() - started).share(len(conversations))
        return [replace(answer, cost=cost) for answer in answers]


def make_defense(name: str, target: TargetModel, **options: Any) -> Defense:
    """Prepare a defense.

    Args:
        name: one of :func:`defense_names`.
        target: the model to protect.
        options: see :func:`defense_options`.

    Raises:
        ConfigError: there is no such defense or option, or the target lacks a trained part.
    """
    (_, factory), known = _entry(name), defense_options(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(
            f"The defense {name} was given {', '.join(unknown)}",
            expected=f"options among {', '.join(known)}" if known else "no options",
            action="correct the option's name",
        )
    return Defense(name, {**known, **options}, target, factory(target, **options))


def _entry(name: str) -> tuple[DefenseInfo, Factory]:
    if name not in (names := defense_names()):
        raise ConfigError(f"There is no defense {name!r}", expected=f"one of {', '.join(names)}", action="correct the name")
    return _REGISTRY[name]


@functools.cache
def _load_installed() -> None:
    """Import the modules in which installed packages register defenses."""
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry_point.load()
        except Exception as error:  # whatever a foreign module raises
            package = entry_point.dist.name if entry_point.dist is not None else "an installed package"
            raise ConfigError(
                f"The defenses of {package} ({entry_point.value}) cannot be loaded: {type(error).__name__}: {error}",
                expected="a module that registers defenses with @mogu.defenses.defense",
                action="update or uninstall that package",
            ) from error
