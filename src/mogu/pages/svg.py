"""Plots as SVG text: a panel with axes, and labels that look for free space.

Colors are the page's CSS variables, so that a plot is as light or dark as the page around it. Knows points and words;
knows nothing of defenses.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

FONT = 13.0
_LETTER = 0.56  # mean width of a letter, in font sizes
_DIRECTIONS = [
    (math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)) for turn in (0, 8, 4, 12, 2, 14, 6, 10, 1, 15, 7, 9, 3, 13, 5, 11)
]
_DISTANCES = (9, 15, 23, 33, 45, 60, 78, 98, 120, 145, 172)


@dataclass(frozen=True)
class Box:
    """A rectangle of the drawing, in its units."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether two rectangles share more than an edge."""
        return self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom


@dataclass
class Panel:
    """A plot from 0 to 1 on both axes, unless the horizontal one is a row of columns, or logarithmic.

    Args:
        title: what is shown, for those who cannot see it.
        x_title: of the horizontal axis.
        y_title: of the vertical axis.
        columns: names of the columns on the horizontal axis; empty for shares.
        powers: the powers of ten that the horizontal axis begins and ends with, where it is logarithmic.
        width: of the drawing.
        height: of the drawing.
    """

    title: str
    x_title: str
    y_title: str
    columns: Sequence[str] = ()
    powers: tuple[int, int] | None = None
    width: float = 460.0
    height: float = 372.0
    _parts: list[str] = field(default_factory=list)
    _taken: list[Box] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.area = Box(52.0, 16.0, self.width - 24.0, self.height - 46.0)
        self._axes()

    def x(self, value: float) -> float:
        """The horizontal coordinate of a share, of a column's index, or of a value on a logarithmic axis."""
        room = self.area.right - self.area.left
        if self.powers is not None:
            first, last = self.powers
            return self.area.left + room * (math.log10(value) - first) / (last - first)
        if self.columns:
            return self.area.left + room * (value + 0.5) / len(self.columns)
        return self.area.left + room * value

    def y(self, value: float) -> float:
        """The vertical coordinate of a share."""
        return self.area.bottom - (self.area.bottom - self.area.top) * value

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Draw a line through points."""
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self._parts.append(f'<polyline points="{path}" class="line {style}"/>')

    def band(self, lower: Sequence[tuple[float, float]], upper: Sequence[tuple[float, float]], style: str) -> None:
        """Fill the area between two lines."""
        path = " ".join(f"{self.x(x):.1f},{self.y(min(1.0, max(0.0, y))):.1f}" for x, y in [*lower, *reversed(upper)])
        self._parts.append(f'<polygon points="{path}" class="band {style}"/>')

    def cross(self, x: tuple[float, float, float], y: tuple[float, float, float], style: str) -> None:
        """Draw an interval on both axes, each as (low, value, high)."""
        self._parts.append(
            f'<path class="whisker {style}" d="M{self.x(x[0]):.1f} {self.y(y[1]):.1f}H{self.x(x[2]):.1f}'
            f'M{self.x(x[1]):.1f} {self.y(y[0]):.1f}V{self.y(y[2]):.1f}"/>'
        )

    def dot(self, x: float, y: float, style: str, hint: str, *, radius: float = 5.5, shape: str = "circle") -> None:
        """Draw a mark, with a hint that appears on hovering."""
        across, down = self.x(x), self.y(y)
        reach = radius * 1.35  # of a diamond, the widest mark
        self._taken.append(Box(across - reach, down - reach, across + reach, down + reach))
        if shape == "square":
            drawn = f'<rect x="{across - radius:.1f}" y="{down - radius:.1f}" width="{2 * radius}" height="{2 * radius}"'
        elif shape == "diamond":
            drawn = f'<path d="M{across:.1f} {down - reach:.1f}l{reach} {reach}l{-reach} {reach}l{-reach} {-reach}z"'
        else:
            drawn = f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{radius}"'
        self._parts.append(f'{drawn} class="dot {style}"><title>{escape(hint)}</title></{drawn[1:].split()[0]}>')

    def label(self, x: float, y: float, text: str, style: str, *, font: float = FONT, must: bool = True) -> None:
        """Write a label at a point, in the nearest free space, joined to the point by a line where that is far.

        Args:
            x: the point's horizontal value.
            y: its vertical value.
            text: the label.
            style: CSS classes.
            font: font size.
            must: whether a label without free space is written all the same, over something else; otherwise it is left out
                unless there is space close by.
        """
        across, down = self.x(x), self.y(y)
        half, tall = len(text) * font * _LETTER / 2 + 3, font * 0.62
        positions = []
        for distance in _DISTANCES if must else _DISTANCES[:3]:
            for right, below in _DIRECTIONS:
                middle = across + right * (distance + half), down + below * (distance + tall * 0.6)
                positions.append((distance, Box(middle[0] - half, middle[1] - tall, middle[0] + half, middle[1] + tall)))
        inside = [(distance, box) for distance, box in positions if self._inside(box)]
        free = [(distance, box) for distance, box in inside if not any(box.meets(other) for other in self._taken)]
        if not free and not must:
            return
        distance, box = (free or inside or positions)[0]
        self._taken.append(box)
        center = (box.left + box.right) / 2, (box.top + box.bottom) / 2
        if distance > _DISTANCES[1]:
            end = min(max(across, box.left), box.right), min(max(down, box.top), box.bottom)
            self._parts.append(f'<path class="leader" d="M{across:.1f} {down:.1f}L{end[0]:.1f} {end[1]:.1f}"/>')
        self._parts.append(
            f'<text x="{center[0]:.1f}" y="{center[1] + font * 0.35:.1f}" class="label {style}" font-size="{font}">{escape(text)}</text>'
        )

    def avoid(self, points: Sequence[tuple[float, float]]) -> None:
        """Keep labels off a line."""
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            steps = max(1, int(math.hypot(self.x(x1) - self.x(x0), self.y(y1) - self.y(y0)) / 6))
            for step in range(steps + 1):
                across = self.x(x0 + (x1 - x0) * step / steps)
                down = self.y(y0 + (y1 - y0) * step / steps)
                self._taken.append(Box(across - 1.5, down - 1.5, across + 1.5, down + 1.5))

    def svg(self) -> str:
        """The drawing as an SVG element."""
        head = f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{escape(self.title)}" class="plot">'
        return "\n".join([head, *self._parts, "</svg>"])

    def _inside(self, box: Box) -> bool:
        area = self.area
        return box.left > area.left + 2 and box.right < self.width - 2 and box.top > 2 and box.bottom < area.bottom - 1

    def _axes(self) -> None:
        area = self.area
        for share in (0, 0.25, 0.5, 0.75, 1):
            down = self.y(share)
            self._parts.append(f'<path class="grid" d="M{area.left} {down:.1f}H{area.right}"/>')
            self._words(area.left - 7, down + 4.5, f"{share:.0%}" if not self.columns else f"{share:g}", "tick end")
            if not self.columns and self.powers is None:
                self._tick(share, f"{share:.0%}")
        first, last = self.powers or (0, -1)
        for power in range(first, last + 1):
            self._tick(10.0**power, f"{10**power:,}" if 0 <= power < 5 else f"1e{power}")
        every = max(1, math.ceil(len(self.columns) / 12))
        for column, name in enumerate(self.columns):
            if column % every == 0:
                self._words(self.x(column), area.bottom + 18, name, "tick")
        self._words((area.left + area.right) / 2, self.height - 7, self.x_title, "axis")
        middle = (area.top + area.bottom) / 2
        self._parts.append(
            f'<text transform="translate(13 {middle:.1f}) rotate(-90)" class="axis" font-size="{FONT}">{escape(self.y_title)}</text>'
        )

    def _tick(self, value: float, text: str) -> None:
        across = self.x(value)
        self._parts.append(f'<path class="grid" d="M{across:.1f} {self.area.top}V{self.area.bottom}"/>')
        self._words(across, self.area.bottom + 18, text, "tick")

    def _words(self, x: float, y: float, text: str, style: str) -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" font-size="{FONT - (1 if "tick" in style else 0)}">{escape(text)}</text>'
        )
