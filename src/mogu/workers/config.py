"""How many workers there are, and where. Knows settings; starts nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def nothing() -> None:
    """What a command begins with that has nothing to set up."""


@dataclass(frozen=True)
class Workers:
    """How many processes share the work of a command, and where they are.

    Args:
        count: how many; by default one for each GPU of a cluster or, where none is used, for each of its machines.
        cluster: address of a Ray cluster, ``"auto"`` for the one that this machine belongs to; by default they run on this machine.
        setup: called first in each of them, for what the command begins with, such as plugins; it is pickled.
    """

    count: int | None = None
    cluster: str | None = None
    setup: Callable[[], object] = nothing
