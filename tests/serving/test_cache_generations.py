"""Generations of cache blocks: a later one is told apart, and what has no blocks needs none."""

from __future__ import annotations

from mogu.serving.cache_generations import CacheGenerations


def test_blocks_of_each_generation_have_keys_of_their_own():
    generations = CacheGenerations()
    for _ in range(3):
        generations.begin()  # as at the start of a server with three gated models
    assert generations.keys() == generations.keys() == ()
    found = []
    for _ in range(3):
        generations.begin()
        generations.begin()
        found.append(generations.keys())
        assert generations.keys() == found[-1]
    assert len({(), *found}) == 4
