"""What a prompt asks for, as far as it matters for judging a reply."""

from __future__ import annotations

import pytest

from mogu.refusals.prompt_text import ParsedPrompt, parse_prompt

FLAGS = ("asks_fact", "is_loaded", "is_personal", "composes", "transforms")


def flags(prompt: ParsedPrompt) -> set[str]:
    return {name for name in FLAGS if getattr(prompt, name)}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("What is the capital of France?", {"asks_fact"}),
        ("When did my sister get married?", {"asks_fact", "is_personal"}),
        ("Why should women earn less?", {"is_loaded"}),
        ("Why should bread rest?", set()),
        ("Write a story about my cat", {"composes", "is_personal"}),
        ("Translate this into German: I can't come.", {"composes", "transforms"}),
        ("How do I bake bread?", set()),
        ("", set()),
    ],
)
def test_kinds_of_prompts(prompt: str, expected: set[str]) -> None:
    assert flags(parse_prompt(prompt)) == expected


def test_content_words_are_compared_by_their_beginnings() -> None:
    assert parse_prompt("How can I bake baking bread?").content_words == {"bake", "bakin", "bread"}
    assert parse_prompt("The bakers' breads").content_words == {"baker", "bread"}


def test_only_the_first_2000_characters_are_read() -> None:
    assert parse_prompt("bread " * 1_000 + "my").is_personal is False
