"""Which cache blocks a gate can have heard: those that were computed after it was loaded.

A gate that is loaded while a server runs has heard nothing of the blocks that are there. A new generation leaves them to the requests that
have begun: no later one finds them. Kept by the process that schedules; knows nothing of vLLM, models or workers.
"""

from __future__ import annotations

FIELD = "mogu_generation"


class CacheGenerations:
    """The generations of one scheduler's blocks."""

    def __init__(self) -> None:
        self._number = 0
        self._in_use = False

    def begin(self) -> None:
        """Begin a new one, unless the present one has no blocks yet: gates that are there from the start cost nothing."""
        self._number += self._in_use
        self._in_use = False

    def keys(self) -> tuple[tuple[str, str], ...]:
        """What tells a new block from those of earlier generations; nothing in the first."""
        self._in_use = True
        return ((FIELD, str(self._number)),) if self._number else ()


GENERATIONS = CacheGenerations()
