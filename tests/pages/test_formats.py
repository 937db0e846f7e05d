"""How pages write times."""

from __future__ import annotations

import pytest

from mogu.pages.formats import seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123, "12 ms"),
        (1.234, "1.23 s"),
        (34.56, "34.6 s"),
        (60.0, "1:00 min"),
        (340.04, "5:40 min"),
        (119.7, "2:00 min"),
        (7384.0, "123:04 min"),
    ],
)
def test_times_have_the_unit_that_people_read_them_in(value: float, text: str) -> None:
    assert seconds(value) == text
