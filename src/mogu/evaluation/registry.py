"""What evaluations find by name: sources of prompts, judges of replies, hardened models and training records.

Whoever has something to offer registers it here; the lab does so when :mod:`mogu.lab` is imported. Knows names; knows nothing of
what they stand for. Imports neither Inspect nor PyTorch, so that registering stays cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from mogu.errors import ConfigError

if TYPE_CHECKING:
    from mogu.data import Record
    from mogu.evaluation.compare.config import Comparison
    from mogu.evaluation.compare.hardened import HardenedModel
    from mogu.evaluation.prompts import EvalPrompt, Outcome

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries of one kind by name.

    Args:
        kind: what the entries are, for messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, entry: Entry) -> None:
        """Add an entry, or replace the one of that name."""
        self._entries[name] = entry

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Entry:
        """The entry of a name.

        Raises:
            ConfigError: nothing was registered under it.
        """
        if name not in self._entries:
            raise ConfigError(
                f"There is no {self.kind} {name!r}",
                expected=f"one of {', '.join(self._entries) or 'none: nothing is registered'}",
                action="correct the name, or import the package that registers it",
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._entries)


PROMPT_SOURCES: Registry[Callable[[], list[EvalPrompt]]] = Registry("source of prompts")
"""Prompts to evaluate with, where a word stands in place of a data set or a file."""

JUDGES: Registry[Callable[[EvalPrompt, str], Outcome]] = Registry("judge of replies")
"""``judge(prompt, reply)``: what a reply did with its prompt."""

MODEL_SOURCES: Registry[Callable[[Comparison], Sequence[HardenedModel]]] = Registry("source of models")
"""Hardened models for a comparison, where a word stands in place of a saved model."""

RECORD_SOURCES: Registry[Callable[[], Mapping[str, list[Record]]]] = Registry("source of training records")
"""Training records by split, where a word stands in a recipe in place of a file."""
