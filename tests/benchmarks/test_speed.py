"""Every way to reply takes every turn, and costs the forward passes that it should."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.models import SMALL, make_base, random_prompt
from benchmarks.speed import counted_prefills

CPU = torch.device("cpu")


def test_every_way_took_every_turn(quick: dict[str, Any]) -> None:
    for one in quick["speed"]["steps"]:
        assert len(one["seconds"]["base"]) == len(one["seconds"]["routed"])
    for one in quick["speed"]["replies"]:
        turns = {name: [len(turns) for turns in rounds] for name, rounds in one["seconds"].items()}
        asked_and_replied = [one["new_tokens"] + 2] * 2  # a turn ends with the prompt, with each token, and with the end
        assert turns == {**dict.fromkeys(["base", "continue", "recompute", "published"], asked_and_replied), "prefill": [1, 1]}
        assert all(len(tokens) == one["new_tokens"] for tokens in one["tokens"].values())


def test_a_gate_and_a_listener_take_the_turns_of_the_base(quick: dict[str, Any]) -> None:
    for one in quick["gated"]["replies"]:
        assert set(one["decoding"]) == set(one["first_token"]) == {"base", "gate", "listening"}
        assert len({len(turns) for rounds in one["decoding"].values() for turns in rounds}) == 1


def test_recompute_costs_exactly_one_prefill_more(quick: dict[str, Any]) -> None:
    for one in quick["speed"]["replies"]:
        assert one["prefills"] == {"base": 1, "continue": 1, "recompute": 2, "published": 6}


def test_published_procedure_and_recompute_say_the_same(quick: dict[str, Any]) -> None:
    for one in quick["speed"]["replies"]:
        assert one["tokens"]["published"] == one["tokens"]["recompute"]
        assert one["tokens"]["published"] != one["tokens"]["base"]


def test_prefill_counter_sees_passes_over_several_tokens_only() -> None:
    base = make_base(SMALL, CPU, torch.float32)
    with counted_prefills([base.model]) as lengths:
        base.generate(random_prompt(SMALL, 7, CPU), max_new_tokens=4, do_sample=False)
    assert lengths == [7]
