"""What an attack sends to a model, and the registry that finds attacks by name.

An attack is a generator function decorated with :func:`attack`: it yields one :class:`Attempt` after another and is sent the reply to
each, until its behavior is broken, its budget is spent, or it has nothing left to try. Knows attempts and names; knows no particular
attack, and nothing of how replies are made or judged.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mogu.errors import ConfigError
from mogu.evaluation.prompts import EvalPrompt

if TYPE_CHECKING:
    from mogu.attacks.surfaces import Surface

Family = Literal[
    "direct", "templates", "prefill", "delayed", "formats", "encodings", "context", "dialogue", "sampling", "optimizers", "weights"
]
Access = Literal["text", "gradients", "weights"]


@dataclass(frozen=True)
class Attempt:
    """One query: a conversation for the model to answer.

    Args:
        conversation: messages; if the last one is the assistant's, the answer is begun with it and the model goes on from there.
        temperature: of sampling; 0 is greedy.
        seed: of sampling; a batch is drawn with that of its first attempt.
        label: which of the attack's phrasings this is, for results; never the text itself.
        extra_tokens: how many tokens of a reply the attempt asks for before the answer proper; a reply may be so much longer.
        judged: whether a reply that gives in is a success; the earlier steps of a conversation ask for nothing malicious.
        reply: the reply, where the attack had to get it itself, since no server takes what it sends; such an attempt is only judged.
    """

    conversation: tuple[dict[str, str], ...]
    temperature: float = 0.0
    seed: int = 0
    label: str = ""
    extra_tokens: int = 0
    judged: bool = True
    reply: str | None = None

    @property
    def prefill(self) -> str:
        """The beginning of the answer that the attempt brings along; empty where it brings none."""
        last = self.conversation[-1]
        return last["content"] if last["role"] == "assistant" else ""


def ask(behavior: EvalPrompt, text: str, *, begun: str = "", **others: Any) -> Attempt:
    """An attempt that puts ``text`` in the place of the behavior's last user message.

    Args:
        behavior: what is attacked; earlier turns and a system prompt of its own stay.
        text: what the user says.
        begun: how the answer is begun for the model, if it is.
        others: further fields of :class:`Attempt`.
    """
    turns = [*behavior.conversation[:-1], {"role": "user", "content": text}]
    if begun:
        turns.append({"role": "assistant", "content": begun})
    return Attempt(tuple(turns), **others)


Attempts = Generator[Attempt, str | None, None]
"""Yields attempts; is sent the reply to each, which did not give in; a scripted attack is sent ``None``."""


@dataclass
class Context:
    """What an attack may use besides the behavior.

    Args:
        rng: its source of randomness, the same for a behavior whenever it is attacked with one seed.
        queries: how many attempts it may make.
        flops: how many floating-point operations it may spend.
        surface: makes what an attacker with the weights can compute with; attacks on text never call it.
        options: file names and the like that the user gave, by option.
    """

    rng: random.Random
    queries: int
    flops: float
    surface: Callable[[], Surface]
    options: dict[str, str] = field(default_factory=dict)


Attack = Callable[[EvalPrompt, Context], Attempts]


@dataclass(frozen=True)
class AttackInfo:
    """What is known about an attack without running it.

    Args:
        name: the name under which it is registered.
        label: its name in reports.
        family: which table row group of the report it belongs to.
        access: what the attacker needs: ``"text"``, the model as it is served; ``"gradients"``, its weights, to compute with; or
            ``"weights"``, its weights, to change them.
        aware: whether it knows the defense, and works against it.
        queries: attempts on one behavior, at most, where the user sets no budget.
        scripted: whether attempts depend on no replies and cost nothing to make, so that several are made ahead to fill a batch.
        needs: name of the option without which it has nothing to try, such as a file of prompts; ``None`` if it needs none.
    """

    name: str
    label: str
    family: Family
    access: Access = "text"
    aware: bool = False
    queries: int = 100
    scripted: bool = False
    needs: str | None = None


_REGISTRY: dict[str, tuple[AttackInfo, Attack]] = {}


def attack(
    name: str,
    *,
    label: str,
    family: Family,
    access: Access = "text",
    aware: bool = False,
    queries: int = 100,
    scripted: bool = False,
    needs: str | None = None,
) -> Callable[[Attack], Attack]:
    """Register a generator function as an attack; see :class:`AttackInfo` for the arguments.

    Raises:
        ConfigError: another module has registered an attack under this name.
    """

    def register(function: Attack) -> Attack:
        if name in _REGISTRY and (taken := _REGISTRY[name][1].__module__) != function.__module__:
            raise ConfigError(
                f"{function.__module__} registers the attack {name!r}, which {taken} has registered already",
                expected="a name that no other attack has",
                action="rename the new attack",
            )
        _REGISTRY[name] = AttackInfo(name, label, family, access, aware, queries, scripted, needs), function
        return function

    return register


def attack_names() -> list[str]:
    """The names of all attacks, in the order of reports."""
    return list(_REGISTRY)


def attack_info(name: str) -> AttackInfo:
    """What is known about an attack.

    Raises:
        ConfigError: there is no such attack.
    """
    return _entry(name)[0]


def attack_function(name: str) -> Attack:
    """The generator function of an attack.

    Raises:
        ConfigError: there is no such attack.
    """
    return _entry(name)[1]


def _entry(name: str) -> tuple[AttackInfo, Attack]:
    if name not in _REGISTRY:
        raise ConfigError(f"There is no attack {name!r}", expected=f"all, or some of {', '.join(_REGISTRY)}", action="correct the name")
    return _REGISTRY[name]
