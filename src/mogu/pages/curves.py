"""Curves over steps as SVG text: axes that fit the numbers, a thin line for every step and a thick one for their moving average.

Knows numbers; knows nothing of what they are of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from mogu.pages.svg import FONT, Box

WIDTH, HEIGHT = 460.0, 300.0
STYLES = ("mogu", "malicious", "benign", "borderline", "malicious_wrapped", "other", "none")
"""Of the curves of one panel, in order."""
_MOST_POINTS = 400
_AVERAGED = 20  # a curve is averaged over this fraction of its steps: single steps are noise
_FAINT = 0.35


def step_curves(title: str, curves: Mapping[str, Sequence[tuple[float, float]]], *, x_title: str = "step", y_title: str = "loss") -> str:
    """Draw curves over steps.

    Args:
        title: what is shown, for those who cannot see it.
        curves: by name, its points, in order; values that are no numbers are left out.
        x_title: of the horizontal axis.
        y_title: of the vertical axis.
    """
    finite = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in curves.items()}
    values = [point for points in finite.values() for point in points]
    area = Box(58.0, 12.0, WIDTH - 14.0, HEIGHT - 44.0)
    last = max((x for x, _ in values), default=1.0)
    low, high = min((y for _, y in values), default=0.0), max((y for _, y in values), default=1.0)
    ticks = nice_ticks(min(low, 0.0) if low > 0 and low < high / 2 else low, high)
    bottom, top = ticks[0], max(ticks[-1], high)

    def across(x: float) -> float:
        return area.left + (area.right - area.left) * x / (last or 1.0)

    def down(y: float) -> float:
        return area.bottom - (area.bottom - area.top) * (y - bottom) / ((top - bottom) or 1.0)

    parts = [f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(title)}" class="plot">']
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{area.left} {down(tick):.1f}H{area.right}"/>')
        parts.append(_words(area.left - 7, down(tick) + 4, f"{tick:g}", "tick end"))
    for tick in nice_ticks(0.0, last):
        if tick <= last:
            parts.append(_words(across(tick), area.bottom + 17, f"{tick:,g}", "tick"))
    for (name, points), style in zip(finite.items(), [STYLES[index % len(STYLES)] for index in range(len(finite))], strict=True):
        averaged = list(zip([x for x, _ in points], moving_average([y for _, y in points], max(1, len(points) // _AVERAGED)), strict=True))
        for drawn, faint in ((points, f' opacity="{_FAINT}" stroke-width="1"'), (averaged, "")):
            path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in thinned(drawn))
            parts.append(f'<polyline points="{path}" class="line {style}"{faint}><title>{escape(name)}</title></polyline>')
    parts.append(_words((area.left + area.right) / 2, HEIGHT - 8, x_title, "axis"))
    middle = (area.top + area.bottom) / 2
    parts.append(f'<text transform="translate(13 {middle:.1f}) rotate(-90)" class="axis" font-size="{FONT}">{escape(y_title)}</text>')
    return "\n".join([*parts, "</svg>"])


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that span a range: at most about so many, in steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    count = math.ceil(high / step - 1e-9) - first
    return [round((first + index) * step, 10) for index in range(count + 1)]


def moving_average(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and the ``window - 1`` before it, or of as many as there are."""
    return [sum(values[max(0, end - window) : end]) / min(window, end) for end in range(1, len(values) + 1)]


def thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """As many points as can be told apart, the last one among them."""
    if len(points) <= _MOST_POINTS:
        return points
    every = math.ceil(len(points) / _MOST_POINTS)
    return [*points[:-1:every], points[-1]]


def _words(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" font-size="{FONT - (1 if "tick" in style else 0)}">{escape(text)}</text>'
