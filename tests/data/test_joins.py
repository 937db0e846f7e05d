"""Requests among others: both are there, whole and once, and one seed gives one text."""

from __future__ import annotations

import random
from collections import Counter

from mogu.data.joins import JOINS, joined

REQUEST = "Explain {second} why the lake freezes."
OTHERS = ["Name {first} three birds.", "Write a line about rain."]


def test_a_request_and_the_other_are_whole_whatever_is_in_them() -> None:
    places: Counter[str] = Counter()
    for seed in range(500):
        text = joined(REQUEST, OTHERS, random.Random(seed))
        assert text.count(REQUEST) == 1
        assert sum(text.count(other) for other in OTHERS) == 1
        places["last" if max(map(text.find, OTHERS)) < text.index(REQUEST) else "before another"] += 1
    assert 0.6 < places["last"] / 500 < 0.8


def test_a_join_says_each_request_once() -> None:
    assert all(join.count("{first}") == join.count("{second}") == 1 for join in JOINS)
    assert len(set(JOINS)) == len(JOINS)


def test_one_seed_gives_one_text() -> None:
    assert joined(REQUEST, OTHERS, random.Random(3)) == joined(REQUEST, OTHERS, random.Random(3))
