"""Timing that is fair on a noisy machine: ways take turns, step by step or token by token, and are compared turn by turn.

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
    """Time each way once a round; the order changes from round to round. The caller warms up."""
    names = list(ways)
    times: Times = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(_seconds(ways[name], device))
    return times


@torch.no_grad()  # so that contexts entered and left in turns, such as generate's own no_grad, always find the same state
def taking_turns(ways: PausingWays, device: torch.device) -> Times:
    """Run all ways at once in one thread, one of them at a time: each runs until it calls ``pause``.

    A reply takes seconds, and within seconds a busy machine may become twice as fast or half as fast. Ways that take turns after each
    token are affected alike.

    Args:
        ways: each is called with a function ``pause``.
        device: synchronized before a turn ends.

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
            way = running[name]
            turns[name].append(_seconds(lambda way=way: way.switch() if way else way.switch(hub.switch), device))
            if way.dead:
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
    """Return the seconds of something done in turns: the median over rounds of each turn, summed."""
    return sum(statistics.median(turn) for turn in zip(*rounds, strict=True))


def median_ratio(times: Times, name: str, reference: str) -> float:
    """Return the median over rounds of one way's seconds divided by another's, in which the machine's load mostly cancels."""
    return statistics.median(seconds / base for seconds, base in zip(times[name], times[reference], strict=True))


def medians(times: Times) -> dict[str, float]:
    """Return the median seconds of each way."""
    return {name: statistics.median(seconds) for name, seconds in times.items()}
