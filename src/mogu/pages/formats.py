"""How pages write numbers: shares, intervals, differences, times, sizes. Knows numbers; knows nothing of what is measured."""

from __future__ import annotations

from typing import Any


def percent(value: float) -> str:
    """Format a share in percent; with one decimal where rounding would hide that it is not a whole number."""
    percentage = 100 * value
    if value in (0, 1) or (1 <= percentage <= 99 and abs(percentage - round(percentage)) < 0.05):
        return f"{percentage:.0f} %"
    return f"{percentage:.1f} %"


def interval(row: dict[str, Any]) -> str:
    """Format the 95 % interval of a share, in percent."""
    return f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"


def points(value: float) -> str:
    """Format a difference of shares, in percentage points."""
    return f"{100 * value:+.1f}".replace("-", "−")


def seconds(value: float) -> str:
    """Format a time given in seconds: ``340 ms``, ``3.40 s``, ``34.0 s``, ``5:40 min``."""
    if value >= 60:
        minutes, rest = divmod(round(value), 60)
        return f"{minutes}:{rest:02} min"
    if value >= 1:
        return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"
    return f"{1000 * value:.0f} ms"


def size(value: float) -> str:
    """Format a number of bytes."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.2f} {unit}"
    return f"{value:.0f} B"
