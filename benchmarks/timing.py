"""Clocks that are fair on a noisy machine: ways take turns, step by step or token by token, and are compared turn by turn.

Knows callables and seconds; knows nothing of models.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from greenlet import getcurrent, greenlet

Ways = Mapping[str, Callable[[], object]]
Times = dict[str, list[float]]
"""Seconds of each way in each round."""

Pause = Callable[[], object]
PausingWays = Mapping[str, Callable[[Pause], object]]


def interleaved(ways: Ways, rounds: int, device: torch.device) -> Times:
    """Time each way once a round; who is first changes from round to round. Warming up is the caller's."""
    names = list(ways)
    times: Times = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(_seconds(ways[name], device))
    return times


@torch.no_grad()  # what is entered and left by turns, such as generate's own no_grad, then always finds the same
def taking_turns(ways: PausingWays, device: torch.device) -> Times:
    """Run all ways at once, in one thread, one of them at a time: each goes on until it calls ``pause``.

    A reply takes seconds, and within seconds a busy machine becomes half as fast or twice as fast again. Ways that change
    places after each token share its moods.

    Args:
        ways: each is called with a function ``pause``.
        device: waited for before a turn is over.

    Returns:
        Seconds of each turn of each way.
    """
    hub = getcurrent()
    running = {name: greenlet(way) for name, way in ways.items()}
    turns: Times = {name: [] for name in ways}
    number = 0
    while running:
        names = list(running)
        start = number % len(names)
        for name in names[start:] + names[:start]:
            one = running[name]
            turns[name].append(_seconds(lambda one=one: one.switch() if one else one.switch(hub.switch), device))
            if one.dead:
                del running[name]
        number += 1
    return turns


def _seconds(way: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    way()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def whole(rounds: Sequence[Sequence[float]]) -> float:
    """Seconds of something done in turns: of each turn the median over rounds, added up."""
    return sum(statistics.median(turn) for turn in zip(*rounds, strict=True))


def median_ratio(times: Times, name: str, reference: str) -> float:
    """Median over rounds of one way's seconds by another's: what the machine did meanwhile mostly cancels."""
    return statistics.median(one / other for one, other in zip(times[name], times[reference], strict=True))


def medians(times: Times) -> dict[str, float]:
    """Median seconds of each way."""
    return {name: statistics.median(seconds) for name, seconds in times.items()}
