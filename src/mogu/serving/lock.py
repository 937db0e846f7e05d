"""The lock of a server with untrusted clients: whether it is on, and whether the current request has been checked.

Knows an environment variable; knows nothing of what a locked server refuses, of HTTP or of vLLM.
"""

from __future__ import annotations

import os
from contextvars import ContextVar

from mogu.errors import ConfigError

LOCKED = "MOGU_LOCKED"
"""The environment variable that `mogu serve --locked` sets."""

ADMITTED: ContextVar[bool] = ContextVar("mogu_admitted", default=False)
"""Whether the current request arrived at an endpoint where a locked server has checked it."""

_TRUE = ("1", "true", "yes", "on", "y", "t")
_FALSE = ("0", "false", "no", "off", "n", "f", "")


def is_locked() -> bool:
    """Tell whether this process belongs to a locked server.

    Raises:
        ConfigError: ``MOGU_LOCKED`` is no usual spelling of true or false. The caller must not reply to requests then.
    """
    value = os.environ.get(LOCKED, "").strip().lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ConfigError(
        f"The environment variable {LOCKED} is {os.environ[LOCKED]!r:.80}",
        expected="1, true, yes or on for a locked server; 0, false, no, off or nothing for an open one",
        action="correct it, or unset it and start with `mogu serve --locked`",
    )
