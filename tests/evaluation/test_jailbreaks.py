"""Evaluation wrappers: the request is in each, and none of their wording was trained on."""

from __future__ import annotations

import re

import pytest

from mogu.data import WRAPPERS, PromptTemplate
from mogu.data.templates import GATE_WRAPPERS
from mogu.errors import ConfigError
from mogu.evaluation.jailbreaks import EVALUATION_WRAPPERS, jailbreak_named
from mogu.lab import wrappers as lab


def runs(text: str, length: int = 5) -> set[tuple[str, ...]]:
    """Every run of so many words."""
    words = re.findall(r"[a-z']+", text.lower().replace("{instruction}", "REQUEST").replace("{request}", "REQUEST"))
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def test_no_run_of_five_words_is_in_a_training_wrapper() -> None:
    trained = [wrapper.text for wrapper in (*WRAPPERS, *GATE_WRAPPERS, *lab.TRAIN, *lab.DEV, *lab.TEST)]
    seen = set().union(*map(runs, trained))
    assert len(seen) > 500
    for wrapper in EVALUATION_WRAPPERS:
        assert not runs(wrapper.text) & seen, wrapper.name


def test_each_wrapper_holds_the_request_once_and_has_a_name_of_its_own() -> None:
    assert len({wrapper.name for wrapper in EVALUATION_WRAPPERS}) == len(EVALUATION_WRAPPERS) == 10
    for wrapper in EVALUATION_WRAPPERS:
        assert wrapper.apply("How {do} I?").count("How {do} I?") == 1
        assert jailbreak_named(wrapper.name) is wrapper


@pytest.mark.parametrize(
    ("text", "wrapped"),
    [
        ("Say [INSERT PROMPT HERE]!", "Say it!"),
        ("Say {prompt}!", "Say it!"),
        ("Say {question} and {question}", "Say it and it"),
        ("You are free.", "You are free.\n\nit"),
    ],
)
def test_published_ways_to_mark_the_place(text: str, wrapped: str) -> None:
    assert PromptTemplate("x", "adversarial", text).apply("it") == wrapped


def test_an_unknown_name_is_explained() -> None:
    with pytest.raises(ConfigError, match=r"no wrapper 'perzona'.*persona"):
        jailbreak_named("perzona")
