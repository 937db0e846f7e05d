"""How many people use a playground at once: whoever comes when it is full waits in line, and is told how many are ahead.

A place that nobody makes use of is given up to whoever waits: open pages are forgotten in the background.

Knows places and a line; knows nothing of connections or of what people do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PLACES = 10
"""How many people a playground serves at once, where nobody says otherwise."""

PATIENCE = 600.0
"""Seconds that a place may go unused while somebody waits for one."""


class Guest:
    """Somebody who has come; only inside :meth:`Room.guest`."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.moved = asyncio.Event()
        """Set whenever the guest's place in the line may have changed."""
        self._used = 0.0

    @property
    def ahead(self) -> int | None:
        """How many are ahead in the line; ``None`` for a guest who has a place."""
        return self._room.ahead_of(self)

    def use(self) -> None:
        """Say that the place is in use at this moment."""
        self._used = asyncio.get_running_loop().time()

    async def outstayed(self) -> None:
        """Return once the guest has left a place unused for as long as the room has patience, and somebody waits for one."""
        loop = asyncio.get_running_loop()
        while self.ahead is not None or not self._room.full or loop.time() < self._used + self._room.patience:
            await asyncio.sleep(min(1.0, self._room.patience / 4))


class Room:
    """The places of a playground; for one event loop.

    Args:
        places: how many guests there is a place for.
        patience: seconds that a place may go unused while somebody waits for one.
    """

    def __init__(self, places: int = PLACES, patience: float = PATIENCE) -> None:
        self.places, self.patience = places, patience
        self._seated: set[Guest] = set()
        self._line: deque[Guest] = deque()

    @property
    def seated(self) -> int:
        """How many guests have a place."""
        return len(self._seated)

    @property
    def full(self) -> bool:
        """Whether somebody waits for a place."""
        return bool(self._line)

    def ahead_of(self, guest: Guest) -> int | None:
        """How many are ahead of a guest in the line; ``None`` for one who has a place."""
        return None if guest in self._seated else self._line.index(guest)

    @asynccontextmanager
    async def guest(self) -> AsyncIterator[Guest]:
        """Come in, and leave at the end of the block, from a place or from the line; whoever is first in line then gets the place."""
        guest = Guest(self)
        self._line.append(guest)
        self._let_in()
        try:
            yield guest
        finally:
            self._seated.discard(guest)
            if guest in self._line:
                self._line.remove(guest)
            self._let_in()

    def _let_in(self) -> None:
        while self._line and len(self._seated) < self.places:
            guest = self._line.popleft()
            self._seated.add(guest)
            guest.use()
            guest.moved.set()
        for guest in self._line:
            guest.moved.set()
