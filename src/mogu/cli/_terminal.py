"""What files, models and hubs say is shown on a terminal, never obeyed: an escape sequence could hide lines, or write others.

Knows characters and the two ways in which commands print; knows nothing of what is printed.
"""

from __future__ import annotations

import logging

import rich.control
import typer

_CONTROL = {code: f"\\u{code:04x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}
"""Control characters, as JSON writes them, so that JSON stays the same JSON."""


def shown(text: str) -> str:
    """A text with its control characters spelled out, tabs and line feeds excepted."""
    return text.translate(_CONTROL)


def echo(text: object = "") -> None:
    """Print a line of results to standard output."""
    typer.echo(shown(str(text)))


def spell_control_characters() -> None:
    """Let Rich, which takes some control characters out of what it prints, and logging spell all of them out."""
    rich.control._CONTROL_STRIP_TRANSLATE.update(_CONTROL)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Spelling())


class _Spelling(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))
