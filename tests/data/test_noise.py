"""Garbled requests: what stays of them, and how often each form comes."""

from __future__ import annotations

import random
from collections import Counter

from mogu.data.noise import garbled, varied, with_tail
from mogu.data.templates import PromptTemplate

TEXT = "Please explain carefully how lighthouses helped sailors find their harbors"
WRAPPERS = [PromptTemplate("box", "neutral", "[[ {request} ]]")]


def test_a_tail_leaves_the_request_as_it_is() -> None:
    for seed in range(50):
        text = with_tail(TEXT, random.Random(seed))
        assert text.startswith(TEXT + " ")
        assert 6 < len(text) - len(TEXT) < 400


def test_garbled_words_keep_their_number_and_their_first_letters_mostly() -> None:
    words = TEXT.split()
    changed = 0
    for seed in range(50):
        found = garbled(TEXT, random.Random(seed)).split(" ")
        assert len(found) == len(words)
        assert all(len(one) == len(other) for one, other in zip(found, words, strict=True))
        changed += sum(one != other for one, other in zip(found, words, strict=True))
    assert 0.15 < changed / (50 * len(words)) < 0.45


def test_most_varied_requests_are_whole_and_in_a_wrapper() -> None:
    forms: Counter[str] = Counter()
    for seed in range(2000):
        text = varied(TEXT, WRAPPERS, random.Random(seed))
        whole, wrapped, tail = TEXT in text, text.startswith("[[ "), not text.endswith(("]]", TEXT[-4:]))
        forms["tail" if whole and tail and not wrapped else "wrapper" if whole and wrapped and not tail else "other"] += 1
    assert 0.05 < forms["tail"] / 2000 < 0.11
    assert 0.65 < forms["wrapper"] / 2000 < 0.8


def test_one_seed_gives_one_text() -> None:
    assert varied(TEXT, WRAPPERS, random.Random(3)) == varied(TEXT, WRAPPERS, random.Random(3))
