"""Codes, against values that others published or that can be read off, and the languages around a request."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from mogu.attacks.encodings import (
    base64_of,
    hexadecimal,
    hyphenated,
    leetspeak,
    letters_reversed,
    pig_latin,
    rot13,
    spaced_out,
)
from mogu.errors import DataError
from mogu.evaluation.prompts import EvalPrompt
from tests.attacks.conftest import AttemptsOf


@pytest.mark.parametrize(
    ("text", "encoded"),
    [("f", "Zg=="), ("fo", "Zm8="), ("foobar", "Zm9vYmFy"), ("Hello, world!", "SGVsbG8sIHdvcmxkIQ=="), ("é", "w6k=")],
)
def test_base64_as_in_rfc_4648(text: str, encoded: str) -> None:
    assert base64_of(text) == encoded


def test_hexadecimal_is_of_ascii_codes() -> None:
    assert hexadecimal("AZ az") == "41 5a 20 61 7a"  # 65, 90, 32, 97, 122


def test_rot13_of_the_alphabet_and_a_known_word() -> None:
    assert rot13("Why did the chicken cross the road?") == "Jul qvq gur puvpxra pebff gur ebnq?"
    assert rot13(rot13("Keep 7 of them!")) == "Keep 7 of them!"


def test_leetspeak_puts_figures_for_letters() -> None:
    assert leetspeak("Leet Toast is") == "L337 70457 15"


def test_spaced_out_words_can_still_be_told_apart() -> None:
    assert spaced_out("a cat, ok") == "a   c a t ,   o k"


def test_hyphens_cut_words_into_threes() -> None:
    assert hyphenated("stranger at the door?") == "str-ang-er at the doo-r?"
    assert hyphenated("I explain it").replace("-", "") == "I explain it"


def test_letters_are_reversed_and_words_are_not() -> None:
    assert letters_reversed("Not a drawer, Lee!") == "toN a reward, eeL!"
    assert letters_reversed("stranger's") == "s'regnarts"


@pytest.mark.parametrize(
    ("word", "pig"),
    [
        ("pig", "igpay"),
        ("latin", "atinlay"),
        ("banana", "ananabay"),
        ("smile", "ilesmay"),
        ("string", "ingstray"),
        ("eat", "eatway"),
        ("quick", "ickquay"),
        ("square", "aresquay"),
        ("yellow", "ellowyay"),
        ("rhythm", "ythmrhay"),
        ("Hello, World!", "ellohay, orldway!"),
    ],
)
def test_pig_latin_as_children_speak_it(word: str, pig: str) -> None:
    assert pig_latin(word) == pig


def test_only_the_code_holds_the_request(attempts_of: AttemptsOf, behavior: EvalPrompt) -> None:
    attempts = {attempt.label: attempt for attempt in attempts_of("encodings")}
    for attempt in attempts.values():
        line, encoded = attempt.conversation[-1]["content"].split("\n\n")
        assert "lock" not in line
        assert behavior.instruction not in encoded
    text = attempts["Base64, decoded silently"].conversation[-1]["content"]
    assert base64.b64decode(text.rpartition("\n")[2]).decode() == behavior.instruction


def test_writing_it_out_gets_room_of_its_own(attempts_of: AttemptsOf) -> None:
    for attempt in attempts_of("encodings"):
        assert (attempt.extra_tokens > 0) == attempt.label.endswith("written out first")


def test_without_translations_the_request_stays_english_among_other_words(attempts_of: AttemptsOf, behavior: EvalPrompt) -> None:
    attempts = attempts_of("languages")
    assert len(attempts) == 12
    for attempt in attempts:
        before, request, after = attempt.conversation[-1]["content"].split("\n\n")
        assert request == behavior.instruction
        assert before.endswith(":")
        assert after.endswith(".")
    around = {attempt.label.split(",")[0]: attempt.conversation[-1]["content"] for attempt in attempts}
    assert "Tafadhali" in around["Swahili"]
    assert around["Zulu"].endswith("Ngiyabonga.")


def test_translations_of_this_request_are_asked_first(tmp_path: Path, attempts_of: AttemptsOf, behavior: EvalPrompt) -> None:
    rows = [
        {"goal": "Something else", "language": "Zulu", "prompt": "Okunye"},
        {"goal": behavior.request, "language": "Welsh", "prompt": "Cwestiwn am glo"},
        {"goal": behavior.request, "language": "Swahili", "prompt": "Swali kuhusu kufuli"},
    ]
    file = tmp_path / "translated.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, *others = attempts_of("languages", options={"translated": str(file)})
    assert [(attempt.label, attempt.conversation[-1]["content"]) for attempt in (first, second)] == [
        ("Welsh, translated", "Cwestiwn am glo"),
        ("Swahili, translated", "Swali kuhusu kufuli"),
    ]
    assert others == attempts_of("languages")


def test_a_file_without_languages_is_explained(tmp_path: Path, attempts_of: AttemptsOf) -> None:
    file = tmp_path / "translated.jsonl"
    file.write_text(json.dumps({"goal": "A", "prompt": "B"}) + "\n")
    with pytest.raises(DataError, match="language"):
        attempts_of("languages", options={"translated": str(file)})
