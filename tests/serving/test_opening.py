"""The settings of a request, and which positions they route."""

from __future__ import annotations

import json

import pytest

from mogu import MoguConfig
from mogu.errors import ConfigError
from mogu.serving import RoutedOpening

CONFIG = MoguConfig(routed_tokens=5, dial=0.25, handoff="recompute")


def test_what_a_request_leaves_out_is_the_saved_model_s():
    assert RoutedOpening.of(CONFIG) == RoutedOpening(routed_tokens=5, dial=0.25, handoff="recompute")
    assert RoutedOpening.of(CONFIG, {"dial": -1}) == RoutedOpening(routed_tokens=5, dial=-1, handoff="recompute")
    assert RoutedOpening.of(CONFIG, json.dumps({"routed_tokens": None, "handoff": "continue"})) == RoutedOpening(
        routed_tokens="all", dial=0.25, handoff="continue"
    )
    assert RoutedOpening.of(CONFIG, "null") == RoutedOpening.of(CONFIG, {}) == RoutedOpening.of(CONFIG)


@pytest.mark.parametrize(
    "asked",
    [
        *({"dial": one} for one in ("1", float("nan"), float("inf"), [1])),
        *({"routed_tokens": one} for one in (-1, 2.5, "5", True)),
        *({"handoff": one} for one in ("", "Continue", 1)),
        {"dails": 1},
        {"answer_marker": "</think>"},  # which the library has and the server has not
        [],
        3,
        "{",
        "[1]",
    ],
)
def test_anything_else_is_one_clear_error(asked):
    with pytest.raises(ConfigError, match=r"mogu.*Expected: an object such as .*What to do: correct the request's field 'mogu'"):
        RoutedOpening.of(CONFIG, asked)


@pytest.mark.parametrize("handoff", ["continue", "recompute"])
@pytest.mark.parametrize("tokens", [0, 1, 2, 5, None])
def test_routed_tokens_of_a_pass_are_those_of_decoding_one_by_one(tokens, handoff):
    """Token ``prompt + k`` of a sequence is read to predict token ``k + 1`` of the answer: routed while that is one of the first ``m``."""
    opening, prompt = RoutedOpening(routed_tokens=tokens, dial=0.0, handoff=handoff), 7
    for generated in range(9):
        handed_over = handoff == "recompute" and tokens is not None and generated >= tokens
        known = prompt + generated
        predicts = [max(position - (prompt - 1), 0) + 1 for position in range(known)]  # which token of the answer; the prompt is as its end
        routed = [tokens is None or (number <= tokens and not handed_over) for number in predicts]
        for computed in range(known):
            for scheduled in range(1, known - computed + 1):
                wanted = routed[computed : computed + scheduled]
                assert opening.routes(computed, scheduled, prompt, generated) == sum(wanted)
                assert sorted(wanted, reverse=True) == wanted  # the routed ones come first


def test_blocks_are_shared_where_they_are_the_same():
    prompt, size = 40, 16
    ends = range(size, 8 * size, size)

    def keys(**settings):
        return [
            RoutedOpening(**({"routed_tokens": 5, "dial": 0.5, "handoff": "continue"} | settings)).cache_key(prompt, end) for end in ends
        ]

    assert keys()[:2] == keys(routed_tokens=9)[:2] == keys(handoff="recompute")[:2]
    assert not set(keys()) & set(keys(dial=0.75))
    assert not set(keys()[2:]) & set(keys(routed_tokens=9)[3:])  # the third ends at position 48: behind 44, before 48
    longer = [RoutedOpening(routed_tokens=5, dial=0.5, handoff="continue").cache_key(prompt + 80, end) for end in ends]
    assert longer[:2] == keys()[:2]
    assert longer[2] not in keys()[2:]
    assert len(set(keys(routed_tokens="all"))) == 1
