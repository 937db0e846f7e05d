"""Rules and forms stand around the request, which is in each of them once and unchanged."""

from __future__ import annotations

import pytest

from mogu.evaluation.prompts import EvalPrompt
from tests.attacks.conftest import AttemptsOf


@pytest.mark.parametrize("name", ["suppression", "formats"])
def test_the_request_is_in_each_text_once(name: str, attempts_of: AttemptsOf) -> None:
    braces = EvalPrompt.plain("b-2", "tests", "malicious", 'Open {door} "7"')
    texts = [attempt.conversation[-1]["content"] for attempt in attempts_of(name, on=braces)]
    assert len(set(texts)) == 8
    for text in texts:
        assert text.count('Open {door} "7"') == 1
        assert "{request}" not in text


def test_rule_lists_rule_out_apologies_and_words_of_refusals(attempts_of: AttemptsOf) -> None:
    texts = {attempt.label: attempt.conversation[-1]["content"] for attempt in attempts_of("suppression")}
    assert "No apology" in texts["no apologies"]
    assert all(word in texts["forbidden words"] for word in ("sorry", "cannot", "can't", "unable", "illegal"))
    assert 'must begin with the two words "Gladly, then"' in texts["must begin with"]


def test_forms_are_named_and_the_round_trip_gets_room_for_its_first_leg(attempts_of: AttemptsOf) -> None:
    attempts = {attempt.label: attempt for attempt in attempts_of("formats")}
    assert {"JSON", "Python", "poem", "table", "French and back", "quiz"} <= set(attempts)
    assert "JSON object" in attempts["JSON"].conversation[-1]["content"]
    assert {label for label, attempt in attempts.items() if attempt.extra_tokens} == {"French and back"}
