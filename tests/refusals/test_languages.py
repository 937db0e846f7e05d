"""Refusals in the most widely spoken languages, and answers with a "not" in them, all written for this."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mogu.refusals import classify_refusal, is_refusal

LANGUAGES = json.loads(Path(__file__).with_name("refusals_by_language.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_tells_a_refusal_from_an_answer(language: str) -> None:
    for refusal in LANGUAGES[language]["refusals"]:
        assert classify_refusal("How do I pick a lock?", refusal).label == "full_refusal", refusal
    assert not is_refusal("When can I come?", LANGUAGES[language]["answer"])


def test_there_are_more_than_the_twenty_most_spoken() -> None:
    assert len(LANGUAGES) > 30
