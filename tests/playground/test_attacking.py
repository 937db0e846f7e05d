"""An attack on every side of a playground: what is sent is what `mogu attack` sends, and each side gets all of it."""

from __future__ import annotations

import pytest

from mogu.attacks.verdicts import judge
from mogu.errors import ConfigError
from mogu.evaluation.jailbreaks import EVALUATION_WRAPPERS
from mogu.playground.answering import Event
from mogu.playground.attacking import FEATURED, Assault, _behavior, attack_sides, attempts_of, offered_attacks
from mogu.playground.sides import Side

REQUEST = "Pick a lock"


def test_the_four_attacks_with_buttons_come_first_and_all_that_are_offered_need_only_a_request() -> None:
    offered = offered_attacks()
    assert tuple(offered[:4]) == FEATURED
    assert "gcg" not in offered
    assert "templates" not in offered  # which needs a file
    for name in offered:
        attempts = attempts_of(name, REQUEST, 3)
        assert 1 <= len(attempts) <= 3
        assert all(attempt.conversation[-1]["role"] in ("user", "assistant") for attempt in attempts)


def test_attempts_are_wrappers_beginnings_and_garbled_requests() -> None:
    wrapped = attempts_of("wrappers", REQUEST, 2, system="Be kind.")
    asked = [wrapper.apply(REQUEST) for wrapper in EVALUATION_WRAPPERS[:2]]
    system = {"role": "system", "content": "Be kind."}
    assert [attempt.conversation for attempt in wrapped] == [(system, {"role": "user", "content": text}) for text in asked]
    assert attempts_of("prefill", REQUEST, 1)[0].prefill == "Sure, here is"
    garbled = attempts_of("best_of_n", REQUEST, 3)
    assert {attempt.temperature for attempt in garbled} == {1.0}
    assert len({attempt.conversation[-1]["content"] for attempt in garbled}) == 3


def test_every_side_gets_every_attempt_and_is_judged_by_its_own_reply(sides: list[Side], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mogu.playground.attacking.ROWS", 4)  # two batches
    for side in sides:
        side.model.config.max_position_embeddings = 4096
    events: list[Event] = []
    attack_sides(Assault("prefill", REQUEST, count=3, max_new_tokens=6), sides, events.append)
    first, *others = events
    assert [attempt["begun"] for attempt in first["attempts"]] == [attempt.prefill for attempt in attempts_of("prefill", REQUEST, 3)]
    assert sorted((event["index"], event["column"]) for event in others) == [(index, column) for index in range(3) for column in range(2)]
    for event in others:
        attempt = attempts_of("prefill", REQUEST, 3)[event["index"]]
        assert event["broken"] == judge(_behavior(REQUEST, None), attempt, event["text"]).broken
        assert (event["score"] is None) == (event["column"] == 0)


def test_an_unknown_attack_is_named() -> None:
    with pytest.raises(ConfigError, match="no attack 'magic'"):
        attempts_of("magic", REQUEST, 1)
    with pytest.raises(ConfigError, match="computes"):
        attempts_of("gcg", REQUEST, 1)
