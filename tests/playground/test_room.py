"""Ten people have places; the eleventh waits, is told how many are ahead, and gets the first place that is free."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from mogu.playground.room import PLACES, Room


def test_the_eleventh_waits_until_somebody_leaves() -> None:
    async def evening() -> None:
        room = Room()
        seats = [AsyncExitStack() for _ in range(PLACES)]
        guests = [await seat.enter_async_context(room.guest()) for seat in seats]
        assert [guest.ahead for guest in guests] == [None] * 10
        async with AsyncExitStack() as late:
            eleventh, twelfth = [await late.enter_async_context(room.guest()) for _ in range(2)]
            assert (eleventh.ahead, twelfth.ahead) == (0, 1)
            twelfth.moved.clear()
            await seats[3].aclose()
            await asyncio.wait_for(twelfth.moved.wait(), 5)
            assert (eleventh.ahead, twelfth.ahead) == (None, 0)
            assert room.seated == 10
        for seat in seats:
            await seat.aclose()
        assert room.seated == 0

    asyncio.run(evening())


def test_a_place_that_is_not_used_is_outstayed_only_while_somebody_waits() -> None:
    async def evening() -> None:
        room = Room(1, patience=0.05)
        async with room.guest() as idle:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(idle.outstayed(), 0.3)  # nobody waits
            async with room.guest() as waiting:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(waiting.outstayed(), 0.3)  # has no place to give up
                idle.use()
                await asyncio.wait_for(idle.outstayed(), 5)

    asyncio.run(evening())


def test_whoever_leaves_the_line_is_let_in_no_more() -> None:
    async def evening() -> None:
        room = Room(1)
        async with room.guest():
            async with room.guest() as impatient:
                assert impatient.ahead == 0
            async with room.guest() as patient:
                assert patient.ahead == 0
        assert room.seated == 0

    asyncio.run(evening())
