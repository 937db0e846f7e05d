"""The lock of a server whose clients are not trusted: whether it is on, and whether a request came in where it is checked.

Knows an environment variable; knows nothing of what a locked server refuses, of HTTP or of vLLM.
"""

from __future__ import annotations

import os
from contextvars import ContextVar

from mogu.errors import ConfigError

LOCKED = "MOGU_LOCKED"
"""The environment variable that `mogu serve --locked` sets."""

ADMITTED: ContextVar[bool] = ContextVar("mogu_admitted", default=False)
"""Whether the request at hand came in by an endpoint where a locked server has checked it."""

_TRUE = ("1", "true", "yes", "on", "y", "t")
_FALSE = ("0", "false", "no", "off", "n", "f", "")


def is_locked() -> bool:
    """Tell whether this process belongs to a locked server.

    Raises:
        ConfigError: ``MOGU_LOCKED`` is neither a usual spelling of true nor of false; whoever asks must not answer then.
    """
    found = os.environ.get(LOCKED, "").strip().lower()
    if found in _TRUE:
        return True
    if found in _FALSE:
        return False
    raise ConfigError(
        f"The environment variable {LOCKED} is {os.environ[LOCKED]!r:.80}",
        expected="1, true, yes or on for a locked server; 0, false, no, off or nothing for an open one",
        action="correct it, or unset it and start with `mogu serve --locked`",
    )
