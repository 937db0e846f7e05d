"""Where MoGU keeps what it can make or get again. Knows a folder's name; knows nothing of what is kept there."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Return ``$MOGU_CACHE`` or, where that is not set, ``~/.cache/mogu``; the folder need not be there yet."""
    named = os.environ.get("MOGU_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "mogu"
