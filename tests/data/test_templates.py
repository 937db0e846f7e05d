"""A template holds a request wherever its text marks a place, and gives it back."""

from __future__ import annotations

import re

import pytest

from mogu.data import ADVERSARIAL_WRAPPERS, NEUTRAL_WRAPPERS, WRAPPERS, PromptTemplate
from mogu.data.templates import unknown_mark


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


@pytest.mark.parametrize(
    "mark",
    [
        "[INSERT PROMPT HERE]",
        "[INSERT PROMPT]",
        "[Insert your question here]",
        "[PROMPT]",
        "[[PROMPT]]",
        "[YOUR REQUEST]",
        "[PROMPT GOES HERE]",
        "[malicious request]",
        "{prompt}",
        "{{prompt}}",
        "{ question }",
        "{user_input}",
        "{goal}",
        "{behavior}",
        "<prompt>",
        "<insert request here>",
        "<<INSERT QUERY>>",
        "<YOUR PROMPT>",
    ],
)
def test_every_usual_spelling_marks_the_place(mark: str) -> None:
    template = PromptTemplate("x", "adversarial", f"Say {mark} and [insert response here].")
    assert template.apply("it") == "Say it and [insert response here]."
    assert unknown_mark(template.text) is None


def test_words_in_brackets_are_text_beside_an_explicit_mark() -> None:
    template = PromptTemplate("x", "adversarial", "[PROMPT] means <input>. <message>Hello</message> {request}")
    assert template.apply("it") == "[PROMPT] means <input>. <message>Hello</message> it"


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("Say [INSERT THE PROMPT OF THE USER HERE].", "[INSERT THE PROMPT OF THE USER HERE]"),
        ("Say {type a question of yours}. [PROMPT]", "{type a question of yours}"),
        ("Say [EXACT TRANSLATION OF QUESTION] and (insert ChatGPT response here).", None),
        ("No mark at all.", None),
    ],
)
def test_what_only_looks_like_a_mark_is_found(text: str, unknown: str | None) -> None:
    assert unknown_mark(text) == unknown


@pytest.mark.parametrize("request_", ["Do {this} and {instruction}.", "a", "Line one.\nLine two.", "{request}"])
def test_every_training_template_gives_back_any_request(request_: str) -> None:
    for template in WRAPPERS:
        assert template.extract(template.apply(request_)) == request_


@pytest.mark.parametrize("other", ["", "Say it and that", "Say  and ", "Say it", "Please say it and it", "Say it and it!"])
def test_a_text_that_the_template_did_not_make_holds_no_request(other: str) -> None:
    assert PromptTemplate("x", "neutral", "Say {prompt} and {prompt}").extract(other) is None


def test_training_templates_are_many_and_have_one_place_each():
    assert len(NEUTRAL_WRAPPERS) >= 12
    assert len(ADVERSARIAL_WRAPPERS) >= 16
    assert len({wrapper.name for wrapper in WRAPPERS}) == len(WRAPPERS)
    for wrapper in WRAPPERS:
        assert wrapper.text.count("{instruction}") == 1
        assert re.fullmatch(r"[a-z-]+", wrapper.name)
        assert "Sum {x} {instruction}" in wrapper.apply("Sum {x} {instruction}")


def test_training_templates_share_no_five_words_with_those_that_defenses_are_tested_on():
    lab = pytest.importorskip("mogu.lab.wrappers")

    def runs(texts):
        words = [re.findall(r"\w+", text.lower().replace("{instruction}", "§").replace("{request}", "§")) for text in texts]
        return {tuple(found[start : start + 5]) for found in words for start in range(len(found) - 4)}

    ours = runs(wrapper.text for wrapper in WRAPPERS)
    assert not ours & runs(wrapper.text for wrapper in (*lab.DEV, *lab.TEST))
