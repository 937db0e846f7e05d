"""A model that judges its own replies, shown with a model whose replies and verdicts are known in advance."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from mogu.defenses import REFUSAL, TargetModel, make_defense
from mogu.defenses.self_examine import judgment
from mogu.inference.prompts import as_conversation
from mogu.inference.replies import ReplySettings


def test_only_replies_judged_harmful_are_replaced(make_chained_target: Callable[[Mapping[str, str]], TargetModel]) -> None:
    """The model answers A, B, C and D with a, b, c and d, and the questions about them with "yes", "no", "qqq" and nothing."""
    chains = {"A": "a", "B": "b", "C": "c", "D": "d", "a": "y", "y": "e", "e": "s", "b": "n", "n": "o", "c": "q", "q": "q"}
    ready = make_defense("self_examine", make_chained_target(chains), question="{reply}", verdict_tokens=3)
    replies = ready.reply([as_conversation(text) for text in ("B", "my A", "C", "D")], ReplySettings(1))
    assert [reply.text for reply in replies] == ["b", REFUSAL, "c", "d"]
    assert [reply.intervened for reply in replies] == [False, True, False, False]
    assert [dict(reply.details) for reply in replies] == [
        {"judgment": "harmless", "verdict": "no"},
        {"judgment": "harmful", "verdict": "yes"},
        {"judgment": "unclear", "verdict": "qqq"},
        {"judgment": "unclear", "verdict": ""},
    ]


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("Yes, this is harmful.", "harmful"),
        ("**YES**", "harmful"),
        ("Answer: yes", "harmful"),
        ("No.", "harmless"),
        ("No, nobody says yes to that.", "harmless"),
        ("", "unclear"),
        ("Yesterday was nothing special.", "unclear"),
        ("好的", "unclear"),
        ("\x00\x1b[0m", "unclear"),
    ],
)
def test_the_first_yes_or_no_of_a_verdict_counts(verdict: str, expected: str) -> None:
    assert judgment(verdict) == expected


def test_a_reply_with_braces_is_quoted_as_it_is(make_chained_target: Callable[[Mapping[str, str]], TargetModel]) -> None:
    """A placeholder inside a reply is not replaced a second time."""
    target = make_chained_target({"A": "a", "a": "y", "y": "e", "e": "s"})
    (reply,) = make_defense("self_examine", target, question="{0} {reply}").reply([as_conversation("A")], ReplySettings(1))
    assert reply.details["judgment"] == "harmful"
