"""Curves over steps: axes of round numbers, every curve drawn and named, and nothing lost where steps are few or many."""

from __future__ import annotations

import math
import re

import pytest

from mogu.pages.curves import moving_average, nice_ticks, step_curves, thinned


def test_a_moving_average_begins_with_what_there_is() -> None:
    assert moving_average([4.0, 2.0, 0.0, 6.0], 2) == [4.0, 3.0, 1.0, 3.0]
    assert moving_average([4.0, 2.0], 1) == [4.0, 2.0]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.13, 0.57, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        (0.0, 1234.0, [0, 500, 1000, 1500]),
        (-2.0, 3.0, [-2, -1, 0, 1, 2, 3]),
        (5.0, 5.0, [5, 6, 7, 8, 9, 10]),
        (0.0, 0.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_ticks_are_round_and_span_the_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_every_curve_is_inside_the_drawing_and_bears_its_name() -> None:
    svg = step_curves("losses", {"unwill <1>": [(1, 4.0), (2, math.nan), (3, 1.0)], "glad": [(1, 2.0)], "empty": []})
    assert svg.count("<title>unwill &lt;1&gt;</title>") == 2  # the steps, and their average
    numbers = [float(number) for path in re.findall(r'points="([^"]*)"', svg) for number in re.split("[ ,]", path) if number]
    assert len(numbers) == 2 * (2 * 2 + 2)  # of two curves, two points and one
    assert all(math.isfinite(number) and 0 <= number <= 460 for number in numbers)
    assert "nan" not in svg


def test_long_curves_keep_their_end() -> None:
    points = [(float(step), 1.0) for step in range(1, 10_001)]
    drawn = thinned(points)
    assert len(drawn) <= 402
    assert (drawn[0], drawn[-1]) == (points[0], points[-1])
    assert thinned(points[:7]) == points[:7]
