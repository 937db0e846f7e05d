"""A model that judges its own reply, with a model whose replies and verdicts are known beforehand."""

from __future__ import annotations

import pytest
from known_models import says, user_only, write_next
from transformers import PreTrainedTokenizerFast

from mogu.defenses import REFUSAL, Subject, make_defense
from mogu.defenses.self_examine import judgment
from mogu.inference.replies import ReplySettings


def test_only_replies_judged_harmful_are_replaced(tokenizer: PreTrainedTokenizerFast) -> None:
    """To A, B, C and D the model says a, b, c and d; asked about those it says "yes", "no", "qqq" and nothing."""
    letters = user_only(tokenizer)
    chains = {"A": "a", "B": "b", "C": "c", "D": "d", "a": "y", "y": "e", "e": "s", "b": "n", "n": "o", "c": "q", "q": "q"}
    subject = Subject(write_next(letters, chains), letters)
    ready = make_defense("self_examine", subject, question="{reply}", verdict_tokens=3)
    replies = ready.reply([says("B"), says("my A"), says("C"), says("D")], ReplySettings(1))
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


def test_a_reply_with_braces_is_quoted_as_it_is(tokenizer: PreTrainedTokenizerFast) -> None:
    """Its own placeholder in a reply changes nothing: the question is asked with it once."""
    letters = user_only(tokenizer)
    subject = Subject(write_next(letters, {"A": "a", "a": "y", "y": "e", "e": "s"}), letters)
    (reply,) = make_defense("self_examine", subject, question="{0} {reply}").reply([says("A")], ReplySettings(1))
    assert reply.details["judgment"] == "harmful"
