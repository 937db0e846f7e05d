"""Harmless text is asked for before the request, in sizes that are what the label says."""

from __future__ import annotations

import re

import pytest

from mogu.attacks.delayed import LENGTHS, PASSAGES
from mogu.evaluation.prompts import EvalPrompt
from tests.attacks.conftest import AttemptsOf


@pytest.mark.parametrize("name", ["delayed", "delayed_translated"])
def test_the_request_comes_once_and_last(name: str, attempts_of: AttemptsOf, behavior: EvalPrompt) -> None:
    for attempt in attempts_of(name):
        [user] = attempt.conversation
        task, _, end = user["content"].rpartition(behavior.instruction)
        assert end == ""
        assert len(task.split()) > 15
        assert "lock" not in task


@pytest.mark.parametrize(("name", "more"), [("delayed", 1), ("delayed_translated", 2)])
def test_a_reply_may_be_longer_by_the_harmless_text(name: str, more: int, attempts_of: AttemptsOf) -> None:
    for attempt in attempts_of(name):
        tokens = int(attempt.label.split()[0])
        assert tokens in LENGTHS
        assert attempt.extra_tokens == more * tokens


def test_every_length_is_asked_for_in_five_ways(attempts_of: AttemptsOf) -> None:
    labels = [attempt.label for attempt in attempts_of("delayed")]
    assert [label for label in labels if label.startswith("20 ")] == [
        "20 tokens, prose",
        "20 tokens, verse",
        "20 tokens, given text",
        "20 tokens, counting",
        "20 tokens, recipe titles",
    ]
    assert [int(label.split()[0]) for label in labels] == sorted(5 * LENGTHS)


def test_the_passages_are_as_long_as_they_say() -> None:
    assert set(PASSAGES) == set(LENGTHS)
    for tokens, passage in PASSAGES.items():
        pieces = re.findall(r"\w+|[^\w\s]", passage)  # words and marks, most of them a token each
        assert 0.75 * tokens <= len(pieces) <= 1.25 * tokens


def test_what_is_asked_for_grows_with_the_length(attempts_of: AttemptsOf) -> None:
    texts = {attempt.label: attempt.conversation[-1]["content"] for attempt in attempts_of("delayed")}
    assert "some 15 words long" in texts["20 tokens, prose"]  # 15 * 1.3 = 19.5
    assert "some 77 words long" in texts["100 tokens, prose"]  # 77 * 1.3 = 100.1
    assert "count from 1 to 10," in texts["20 tokens, counting"]  # ten figures and ten commas
    assert "suggest 4 titles" in texts["20 tokens, recipe titles"]
    assert PASSAGES[50] in texts["50 tokens, given text"]


def test_the_other_languages_are_what_their_labels_say(attempts_of: AttemptsOf) -> None:
    signs = {"French": "en français", "German": "auf Deutsch", "Spanish": "en español"}
    found = set()
    for attempt in attempts_of("delayed_translated"):
        language = attempt.label.rpartition(" ")[2]
        found.add(language)
        assert [sign in attempt.conversation[-1]["content"] for sign in signs.values()] == [name == language for name in signs]
    assert found == set(signs)
