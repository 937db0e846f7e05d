"""The second pass is timed for every first routed layer."""

from __future__ import annotations

from typing import Any


def test_a_second_reading_is_timed_for_every_first_layer(quick: dict[str, Any]) -> None:
    names = {f"{handoff} {first}" for handoff in ("continue", "recompute") for first in (0, 1)}
    assert {name: len(taken) for name, taken in quick["prefix_reuse"]["seconds"].items()} == dict.fromkeys(names | {"prefill"}, 2)
    assert sum(one["what"] == "second reading" for one in quick["findings"]) == 2
