"""What a command that can go on later does about Ctrl-C, and about how it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from mogu.errors import ConfigError

STOPPED_BY_USER = 130


def check_one_of(resume: bool, restart: bool) -> None:
    """Refuse to go on and to begin anew at once.

    Raises:
        ConfigError: both were asked for.
    """
    if resume and restart:
        raise ConfigError(
            "Both --resume and --restart were given", expected="one of the two", action="--resume goes on, --restart begins anew"
        )


@contextmanager
def stoppable(console: Console, hint: str) -> Iterator[None]:
    """Let Ctrl-C end the command with a hint on how to go on, in place of a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"\nStopped. {hint}")
        raise typer.Exit(STOPPED_BY_USER) from None
