"""Entries by name: what evaluations find under a word that somebody registered.

Knows names; knows nothing of what they stand for.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from mogu.errors import ConfigError

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
