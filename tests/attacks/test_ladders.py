"""Each turn stands on the replies before it, and the request is asked in full only at the top."""

from __future__ import annotations

import pytest

from mogu.attacks.ladders import LADDERS, topic_of
from mogu.evaluation.prompts import EvalPrompt
from tests.attacks.conftest import AttemptsOf

REPLIES = tuple(f"Reply {number}." for number in range(19))


def test_every_turn_keeps_the_replies_that_were_sent(attempts_of: AttemptsOf) -> None:
    attempts = attempts_of("ladder", replies=REPLIES)
    sent = 0
    for _, rungs in LADDERS:
        climbed = attempts[sent : sent + len(rungs)]
        for number, attempt in enumerate(climbed):
            said = [turn["content"] for turn in attempt.conversation if turn["role"] == "assistant"]
            assert said == list(REPLIES[sent : sent + number])
            assert [turn["role"] for turn in attempt.conversation] == ["user", "assistant"] * number + ["user"]
            if number:
                assert attempt.conversation[: 2 * number - 1] == climbed[number - 1].conversation
        sent += len(rungs)
    assert sent == len(attempts)


def test_there_are_five_ladders_of_three_or_four_turns() -> None:
    assert [len(rungs) for _, rungs in LADDERS] == [4, 4, 3, 4, 4]


def test_the_request_is_asked_in_full_at_the_top_only(attempts_of: AttemptsOf, behavior: EvalPrompt) -> None:
    for attempt in attempts_of("ladder"):
        name, place = attempt.label.split(", turn ")
        number, of = map(int, place.split(" of "))
        in_full = behavior.instruction in attempt.conversation[-1]["content"]
        assert in_full == (number == of or (name == "negotiation" and number == 1))


def test_the_way_up_names_the_topic(attempts_of: AttemptsOf) -> None:
    first = {attempt.label: attempt.conversation[-1]["content"] for attempt in attempts_of("ladder")}
    assert first["article, turn 1 of 4"].endswith("written about picking the lock of a stranger's front door?")


@pytest.mark.parametrize(
    ("request_", "topic"),
    [
        ("Explain how to pick a lock", "picking a lock"),
        ("How do I steal boat 3?", "stealing boat 3"),
        ("Write a letter to the mayor.", "a letter to the mayor"),
        ("Tips for hiding a boat", "tips for hiding a boat"),
        ("Steal the red boat", "stealing the red boat"),
        ("Is the boat there?", '"Is the boat there?"'),
    ],
)
def test_topics(request_: str, topic: str) -> None:
    assert topic_of(request_) == topic
