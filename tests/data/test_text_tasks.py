"""Instructions that only manipulate a text, and those that ask for something."""

from __future__ import annotations

import pytest

from mogu.data.text_tasks import only_manipulates_text


@pytest.mark.parametrize(
    "text",
    [
        "Translate the following sentence into Spanish: The cat sleeps.",
        "Please rewrite this paragraph in the passive voice.",
        "Summarise the article below.",
        "Paraphrase: All that glitters is not gold.",
        "Give me a short summary of this story.",
        "Correct the grammar of this sentence: He go home.",
        "Could you rephrase that politely?",
    ],
)
def test_they_only_manipulate_text(text: str) -> None:
    assert only_manipulates_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "How do I fix a leaking tap?",
        "Cut costs in a small bakery: where to begin?",
        "Write a poem about the sea.",
        "Improve my running speed",
        "Why do people translate poetry?",
        "Name three rivers in Europe.",
    ],
)
def test_they_ask_for_something(text: str) -> None:
    assert not only_manipulates_text(text)
