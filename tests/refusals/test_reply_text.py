"""A reply is bounded, cleaned and split into sentences; code and quoted speech are set aside."""

from __future__ import annotations

import pytest

from mogu.refusals.reply_text import clean, parse_reply


@pytest.mark.parametrize(
    ("reply", "sentences"),
    [
        ("Hello there. **How** are _you_?", ("hello there.", "how are you?")),
        ("<think>I should refuse.</think>Assistant: Gladly!", ("gladly!",)),
        ("It’s a “good” day.", ("it's a good day.",)),
        ("One.\n\n42\n\nTwo", ("one.", "42", "two")),
        ("... !!!", ()),
    ],
)
def test_sentences_are_clean_and_in_lower_case(reply: str, sentences: tuple[str, ...]) -> None:
    assert parse_reply(clean(reply)).sentences == sentences


def test_quoted_speech_is_hidden_and_kept_in_the_original() -> None:
    parsed = parse_reply(clean('The guard said: "I will not help you with that." Then he left.'))
    assert "not help" not in " ".join(parsed.sentences)
    assert "I will not help you with that." in " ".join(parsed.originals)


def test_code_and_lists_are_counted_but_not_read() -> None:
    parsed = parse_reply(clean("Use this:\n```\nraise SystemExit('I cannot help')\n```\n1. Save it.\n2. Run it.\n- Done"))
    assert (parsed.has_code, parsed.list_items) == (True, 3)
    assert "cannot" not in " ".join(parsed.sentences)


def test_only_the_beginning_and_the_end_of_a_long_reply_are_read() -> None:
    parsed = parse_reply(clean("First words. " + "Middle words. " * 5_000 + "Last words."))
    assert (parsed.sentences[0], parsed.sentences[-1]) == ("first words.", "last words.")
    assert len(parsed.sentences) <= 48


@pytest.mark.parametrize(("reply", "blank"), [("", True), (" \u200b\n", True), ("<think>hm", True), ("+", False), ("```\nx\n```", False)])
def test_what_shows_nothing_is_blank(reply: str, blank: bool) -> None:
    assert parse_reply(clean(reply)).is_blank is blank


def test_turns_that_the_model_makes_up_for_the_user_are_not_part_of_the_reply() -> None:
    assert clean("I can't help with that, sorry. User: And with this? Assistant: Sure!") == "I can't help with that, sorry."
    dialogue = "User: Hello!\nBot: Hello to you, too."
    assert clean(dialogue) == dialogue


@pytest.mark.parametrize(
    ("reply", "letter", "quotation"),
    [
        ("Dear Ms. Weber,\n\nI cannot come.", True, False),
        ("Subject: Friday\n\nHi Tom,\nI cannot come.", True, False),
        ('"I cannot come," she said, "not today."', False, False),
        ('"I cannot come."', False, True),
        ("Hello! I cannot come.", False, False),
    ],
)
def test_letters_and_quotations_are_seen(reply: str, letter: bool, quotation: bool) -> None:
    parsed = parse_reply(clean(reply))
    assert (parsed.is_letter, parsed.is_quotation) == (letter, quotation)
