"""Attacks from a file of the user's own, which may register defenses beside them. Knows registries; knows no particular attack."""

from __future__ import annotations

from pathlib import Path

from mogu import defenses
from mogu.attacks import attempt


def load_plugin(file: Path) -> list[str]:
    """Run a Python file that registers attacks with :func:`~mogu.attacks.attempt.attack`, or defenses; returns their names.

    The file runs with all rights of this process: a plugin is code, not data.

    Raises:
        ConfigError: the file does not exist, fails, or registers nothing.
    """
    expected = "a Python file that registers attacks with @mogu.attacks.attack, or defenses with @mogu.defenses.defense"
    return defenses.load_plugin(file, others=[attempt._REGISTRY], expected=expected)
