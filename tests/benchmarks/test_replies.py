"""Every way replies to the same prompts, with the same replies."""

from __future__ import annotations

from typing import Any

from benchmarks.replies import everyday_prompts


def test_every_way_replies_the_same_and_is_timed(quick: dict[str, Any]) -> None:
    measured = quick["replies"]
    ways = {"generate, 1 at a time", "generate, 8 at a time", "replies, 3 at a time", "replies, 6 at a time"}
    assert {name: len(taken) for name, taken in measured["seconds"].items()} == dict.fromkeys(ways, 2)
    alone = sorted(measured["lengths"]["generate, 1 at a time"])
    assert len(alone) == 6
    assert alone[0] < alone[-1] <= 8
    assert all(lengths == measured["lengths"]["generate, 1 at a time"] for lengths in measured["lengths"].values())
    assert sum(one["what"] == "replies" for one in quick["findings"]) == len(ways)


def test_the_prompts_are_64_different_ones() -> None:
    assert len(set(everyday_prompts())) == 64
