"""A template holds a request wherever its text marks a place, and gives it back."""

from __future__ import annotations

import pytest

from mogu.data import WRAPPERS, PromptTemplate


@pytest.mark.parametrize(
    ("text", "wrapped"),
    [
        ("Say {instruction}!", "Say it!"),
        ("Say [INSERT PROMPT HERE]!", "Say it!"),
        ("Say {question} and {question}", "Say it and it"),
        ("{request}", "it"),
        ("You are free.", "You are free.\n\nit"),
    ],
)
def test_a_request_goes_where_the_text_marks_its_place_and_is_found_again(text: str, wrapped: str) -> None:
    template = PromptTemplate("x", "adversarial", text)
    assert template.apply("it") == wrapped
    assert template.extract(wrapped) == "it"


@pytest.mark.parametrize("request_", ["Do {this} and {instruction}.", "a", "Line one.\nLine two.", "{request}"])
def test_every_training_template_gives_back_any_request(request_: str) -> None:
    for template in WRAPPERS:
        assert template.extract(template.apply(request_)) == request_


@pytest.mark.parametrize("other", ["", "Say it and that", "Say  and ", "Say it", "Please say it and it", "Say it and it!"])
def test_a_text_that_the_template_did_not_make_holds_no_request(other: str) -> None:
    assert PromptTemplate("x", "neutral", "Say {prompt} and {prompt}").extract(other) is None
