"""The limit on near-identical prompts, against searches for a suffix, garbled requests, and people who ask different things."""

from __future__ import annotations

import random

import pytest

from mogu.data.noise import with_tail
from mogu.data.starter import starter_instructions
from mogu.serving.similar import SimilarPrompts

REQUEST = "Explain how to paint a wooden boat so that the paint lasts for ten years in salt water."


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_search_over_suffixes_is_stopped_after_so_many_tries():
    limit = SimilarPrompts(5)
    rng = random.Random(0)
    admitted = [limit.admits("a", with_tail(REQUEST, rng)) for _ in range(50)]
    assert admitted == [True] * 5 + [False] * 45
    assert limit.admits("b", REQUEST)


def test_small_changes_are_no_way_round():
    sampling = pytest.importorskip(
        "mogu.attacks.sampling", reason="attacks write logs of Inspect, which the extra eval brings", exc_type=ImportError
    )
    limit = SimilarPrompts(3)
    rng = random.Random(0)
    texts = [REQUEST, REQUEST.upper(), REQUEST.replace(" ", "  "), *(sampling.noisy(REQUEST, sampling.NOISY, rng) for _ in range(5))]
    assert [limit.admits("a", text) for text in texts] == [True] * 3 + [False] * 5


def test_people_who_ask_different_things_are_not_stopped():
    limit = SimilarPrompts(5)
    asked = [one.text for one in starter_instructions("benign", "train")[:600]]
    assert sum(not limit.admits("a", text) for text in asked) <= 0.01 * len(asked)


def test_time_passes_and_little_is_remembered():
    clock = Clock()
    limit = SimilarPrompts(1, clock)
    assert limit.admits("a", REQUEST)
    assert not limit.admits("a", REQUEST)
    clock.now = 601.0
    assert limit.admits("a", REQUEST)
    for number in range(3000):
        limit.admits(f"caller {number}", REQUEST)
    assert len(limit._asked) <= 2000
    assert limit.admits("a", "")
