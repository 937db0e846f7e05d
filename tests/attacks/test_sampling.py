"""Draws are at temperature 1 with seeds of their own; garbling changes what it says, as often as it says, and nothing else."""

from __future__ import annotations

import random
import string
from collections import Counter

from mogu.attacks.sampling import NOISY, RECAPITALIZED, SCRAMBLED, noisy, recapitalized, scrambled
from mogu.evaluation.prompts import EvalPrompt
from tests.attacks.conftest import AttemptsOf

TEXT = "Somewhere beyond the quiet harbor, seventeen travelers carefully arranged yellow lanterns around Captain Margaret's table. " * 40


def test_sampling_asks_the_plain_request_with_every_seed(attempts_of: AttemptsOf, behavior: EvalPrompt) -> None:
    attempts = attempts_of("sampling", queries=5)
    assert [(attempt.temperature, attempt.seed) for attempt in attempts] == [(1.0, seed) for seed in range(5)]
    assert all(attempt.conversation == behavior.conversation for attempt in attempts)


def test_best_of_n_garbles_the_request_anew_each_time(attempts_of: AttemptsOf, behavior: EvalPrompt) -> None:
    attempts = attempts_of("best_of_n", queries=50)
    assert [(attempt.temperature, attempt.seed) for attempt in attempts] == [(1.0, seed) for seed in range(50)]
    texts = {attempt.conversation[-1]["content"] for attempt in attempts}
    assert len(texts) == 50
    assert {len(text) for text in texts} == {len(behavior.instruction)}
    assert texts != {attempt.conversation[-1]["content"] for attempt in attempts_of("best_of_n", queries=50, seed=1)}


def test_the_shares_are_the_published_ones() -> None:
    assert (round(SCRAMBLED, 3), round(RECAPITALIZED, 3), round(NOISY, 3)) == (0.632, 0.632, 0.064)  # of sigma = 0.4


def test_scrambled_words_keep_their_letters_and_both_ends() -> None:
    after = scrambled(TEXT, 1.0, random.Random(0))
    pairs = list(zip(_words(TEXT), _words(after), strict=True))
    assert [len(word) for word in TEXT.split(" ")] == [len(word) for word in after.split(" ")]
    for old, new in pairs:
        assert Counter(old) == Counter(new)
        assert (old[:1], old[-1:]) == (new[:1], new[-1:])
        assert len(old) > 3 or old == new
    assert sum(old != new for old, new in pairs) > 400


def test_about_the_share_of_long_words_is_scrambled() -> None:
    # With seven letters of which five different ones are inside, one shuffle in 120 changes nothing.
    text = "lantern " * 4000
    changed = sum(word != "lantern" for word in scrambled(text, 0.6, random.Random(0)).split())
    assert abs(changed / 4000 - 0.6 * 119 / 120) < 0.03  # a standard deviation is 0.008


def test_recapitalizing_changes_case_only_and_about_the_share_of_it() -> None:
    after = recapitalized(TEXT, 0.6, random.Random(0))
    assert after.lower() == TEXT.lower()
    letters = sum(character.isalpha() for character in TEXT)
    assert abs(sum(old != new for old, new in zip(TEXT, after, strict=True)) / letters - 0.6) < 0.03
    assert recapitalized("straße Ärger", 1.0, random.Random(0)) == "STRAßE ÄRGER"


def test_noise_moves_about_the_share_of_characters_by_one_place() -> None:
    after = noisy(TEXT, 0.1, random.Random(0))
    moved = [ord(new) - ord(old) for old, new in zip(TEXT, after, strict=True) if old != new]
    assert set(moved) == {-1, 1}
    assert abs(moved.count(1) / len(moved) - 0.5) < 0.1
    assert 0.07 < len(moved) / len(TEXT) < 0.11  # a space has no printable neighbor below it


def test_noise_stays_within_printable_ascii() -> None:
    text = " ~" * 200 + "é\n"
    after = noisy(text, 1.0, random.Random(0))
    assert set(after) == {" ", "!", "~", "}", "é", "\n"}


def test_nothing_happens_at_share_zero() -> None:
    for garble in (scrambled, recapitalized, noisy):
        assert garble(TEXT, 0.0, random.Random(0)) == TEXT


def _words(text: str) -> list[str]:
    return "".join(character if character in string.ascii_letters else " " for character in text).split()
