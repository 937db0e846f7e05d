"""The settings of a request: overrides, the positions they route, and the cache blocks that requests may share."""

from __future__ import annotations

import json

import pytest

from mogu import MoguConfig
from mogu.errors import ConfigError
from mogu.serving import RequestSettings

CONFIG = MoguConfig(routed_tokens=5, dial=0.25, handoff="recompute")


def test_settings_that_a_request_leaves_out_are_those_of_the_saved_model():
    assert RequestSettings.with_overrides(CONFIG) == RequestSettings(routed_tokens=5, dial=0.25, handoff="recompute")
    assert RequestSettings.with_overrides(CONFIG, {"dial": -1}) == RequestSettings(routed_tokens=5, dial=-1, handoff="recompute")
    assert RequestSettings.with_overrides(CONFIG, json.dumps({"routed_tokens": None, "handoff": "continue"})) == RequestSettings(
        routed_tokens="all", dial=0.25, handoff="continue"
    )
    assert (
        RequestSettings.with_overrides(CONFIG, "null")
        == RequestSettings.with_overrides(CONFIG, {})
        == RequestSettings.with_overrides(CONFIG)
    )


@pytest.mark.parametrize(
    "overrides",
    [
        *({"dial": value} for value in ("1", float("nan"), float("inf"), [1])),
        *({"routed_tokens": value} for value in (-1, 2.5, "5", True)),
        *({"handoff": value} for value in ("", "Continue", 1)),
        {"dails": 1},
        {"answer_marker": "</think>"},  # the library supports it, the server does not
        [],
        3,
        "{",
        "[1]",
    ],
)
def test_anything_else_is_one_clear_error(overrides):
    with pytest.raises(ConfigError, match=r"mogu.*Expected: an object such as .*What to do: correct the request's field 'mogu'"):
        RequestSettings.with_overrides(CONFIG, overrides)


@pytest.mark.parametrize("handoff", ["continue", "recompute"])
@pytest.mark.parametrize("routed_tokens", [0, 1, 2, 5, "all"])
def test_a_pass_routes_the_tokens_that_decoding_one_by_one_routes(routed_tokens, handoff):
    """Position ``prompt + k`` predicts token ``k + 2`` of the reply and is routed if that is one of the first ``m``."""
    settings, prompt = RequestSettings(routed_tokens=routed_tokens, dial=0.0, handoff=handoff), 7
    for generated in range(9):
        handed_over = handoff == "recompute" and routed_tokens != "all" and generated >= routed_tokens
        known = prompt + generated
        # The number of the reply token that each position predicts; the whole prompt is treated like its end.
        predicted = [max(position - (prompt - 1), 0) + 1 for position in range(known)]
        routed = [routed_tokens == "all" or (number <= routed_tokens and not handed_over) for number in predicted]
        for computed in range(known):
            for scheduled in range(1, known - computed + 1):
                expected = routed[computed : computed + scheduled]
                assert settings.routed_count(computed, scheduled, prompt, generated) == sum(expected)
                assert sorted(expected, reverse=True) == expected  # the routed tokens come first


def test_blocks_are_shared_if_and_only_if_they_hold_the_same_values():
    prompt, size = 40, 16
    ends = range(size, 8 * size, size)

    def keys(**settings):
        return [
            RequestSettings(**({"routed_tokens": 5, "dial": 0.5, "handoff": "continue"} | settings)).cache_key(prompt, end) for end in ends
        ]

    assert keys()[:2] == keys(routed_tokens=9)[:2] == keys(handoff="recompute")[:2]
    assert not set(keys()) & set(keys(dial=0.75))
    assert not set(keys()[2:]) & set(keys(routed_tokens=9)[3:])  # the third block ends at position 48: after 44, at most 48
    longer = [RequestSettings(routed_tokens=5, dial=0.5, handoff="continue").cache_key(prompt + 80, end) for end in ends]
    assert longer[:2] == keys()[:2]
    assert longer[2] not in keys()[2:]
    assert len(set(keys(routed_tokens="all"))) == 1
