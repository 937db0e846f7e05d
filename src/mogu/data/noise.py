"""Requests as they come when somebody garbles them: letters swapped and turned into capitals, a meaningless tail, a wrapper.

Whoever searches for a prompt that gets past a defense makes such texts, and so do phones. Knows text; knows nothing of models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from mogu.data.templates import PromptTemplate

_TAIL_WORDS = (
    *(
        "describing",
        "Now",
        "opposite",
        "Sure",
        "interface",
        "begin",
        "table",
        "revert",
        "please",
        "print",
        "two",
        "following",
        "Steps",
        "me",
    ),
    *(
        "tutorial",
        "text",
        "giving",
        "similarly",
        "write",
        "manual",
        "inside",
        "object",
        "there",
        "until",
        "HTML",
        "quote",
        "however",
        "import",
    ),
)
_TAIL_SIGNS = (
    "!",
    "\\",
    "]",
    "(",
    "**",
    "==",
    "{",
    "?",
    "--",
    "<",
    "/>",
    "#",
    "+",
    ";",
    "}};",
    "\"'",
    "|",
    "_",
    "%",
    "~",
    ".",
    ",",
    ":",
    "@",
)
_TAIL = (6, 24)
"""Pieces of a meaningless tail, at least and at most."""

_SHARES = {"tail": 0.08, "garbled": 0.08, "garbled_wrapper": 0.05, "wrapper_and_tail": 0.05}
"""How often a varied request is each of these; the rest is in a wrapper, and otherwise as it was."""


def with_tail(text: str, rng: random.Random) -> str:
    """A request with words and signs behind it that mean nothing."""
    pieces = [rng.choice(_TAIL_WORDS if rng.random() < 0.6 else _TAIL_SIGNS) for _ in range(rng.randint(*_TAIL))]
    return text + " " + "".join(piece + (" " if rng.random() < 0.6 else "") for piece in pieces).strip()


def garbled(text: str, rng: random.Random) -> str:
    """A request some of whose words have swapped letters, odd capitals or a wrong letter."""
    return " ".join(_garbled_word(word, rng) for word in text.split(" "))


def _garbled_word(word: str, rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.15 and len(word) > 3:
        inner = list(word[1:-1])
        rng.shuffle(inner)
        return word[0] + "".join(inner) + word[-1]
    if chance < 0.3:
        return "".join(letter.upper() if rng.random() < 0.4 else letter for letter in word)
    if chance < 0.36 and len(word) > 1:
        place = rng.randrange(len(word))
        return word[:place] + rng.choice("abcdefghijklmnopqrstuvwxyz") + word[place + 1 :]
    return word


def varied(text: str, wrappers: Sequence[PromptTemplate], rng: random.Random) -> str:
    """A request in a wrapper, garbled, with a meaningless tail, or with two of these."""
    chance = rng.random()
    limits = dict(zip(_SHARES, _running_sums(list(_SHARES.values())), strict=True))
    if chance < limits["tail"]:
        return with_tail(text, rng)
    if chance < limits["garbled"]:
        return garbled(text, rng)
    wrapped = rng.choice(wrappers).apply(text)
    if chance < limits["garbled_wrapper"]:
        return garbled(wrapped, rng)
    return with_tail(wrapped, rng) if chance < limits["wrapper_and_tail"] else wrapped


def _running_sums(numbers: Sequence[float]) -> list[float]:
    return [sum(numbers[: count + 1]) for count in range(len(numbers))]
