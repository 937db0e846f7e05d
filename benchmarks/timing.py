"""Clocks that are fair on a noisy machine: ways take turns, and are compared round by round.

Knows callables and seconds; knows nothing of models.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Ways = Mapping[str, Callable[[], object]]
Times = dict[str, list[float]]
"""Seconds of each way in each round."""


def interleaved(ways: Ways, rounds: int, device: torch.device) -> Times:
    """Time each way once a round; who is first changes from round to round. Warming up is the caller's."""
    names = list(ways)
    times: Times = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(_seconds(ways[name], device))
    return times


def _seconds(way: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    way()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_ratio(times: Times, name: str, reference: str) -> float:
    """Median over rounds of one way's seconds by another's: what the machine did meanwhile mostly cancels."""
    return statistics.median(one / other for one, other in zip(times[name], times[reference], strict=True))


def medians(times: Times) -> dict[str, float]:
    """Median seconds of each way."""
    return {name: statistics.median(seconds) for name, seconds in times.items()}
