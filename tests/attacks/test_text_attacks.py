"""What holds for every attack that only writes text: its budget, its labels, whose words it uses, and that it repeats itself exactly."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import mogu.attacks  # noqa: F401  (registers them)
from mogu.attacks.attempt import attack_info
from mogu.data import WRAPPERS
from mogu.evaluation.prompts import EvalPrompt
from mogu.lab import wrappers as lab
from tests.attacks.conftest import AttemptsOf

WRITTEN_HERE = {
    "prefill": 12,
    "prefill_harmless": 12,
    "delayed": 25,
    "delayed_translated": 30,
    "suppression": 8,
    "formats": 8,
    "encodings": 16,
    "languages": 24,
    "many_shot": 12,
    "ladder": 19,
    "sampling": 32,
    "best_of_n": 100,
}
"""Attacks by the number of attempts that they may make on a behavior."""
OWN_WORDS = [name for name in WRITTEN_HERE if name not in ("many_shot", "best_of_n")]
WITHOUT_FILES = [name for name in WRITTEN_HERE if name != "languages"]


def runs(text: str, length: int = 5) -> set[tuple[str, ...]]:
    """Every run of so many words."""
    words = re.findall(r"[\w']+", text.lower())
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


@pytest.mark.parametrize("name", WRITTEN_HERE)
def test_an_attack_on_text_needs_no_weights_and_no_file(name: str) -> None:
    info = attack_info(name)
    assert (info.access, info.needs, info.queries) == ("text", None, WRITTEN_HERE[name])


@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_it_makes_as_many_attempts_as_it_says_and_each_has_a_label_of_its_own(name: str, attempts_of: AttemptsOf) -> None:
    labels = [attempt.label for attempt in attempts_of(name)]
    assert len(set(labels)) == len(labels) == WRITTEN_HERE[name]


@pytest.mark.parametrize("name", WRITTEN_HERE)
def test_no_label_tells_what_was_asked(name: str, attempts_of: AttemptsOf, behavior: EvalPrompt) -> None:
    telling = {"explain", "pick", "lock", "stranger's", "front", "door"}
    for attempt in attempts_of(name):
        assert not telling & set(re.findall(r"[\w']+", attempt.label.lower()))


@pytest.mark.parametrize("name", WRITTEN_HERE)
def test_the_same_seed_makes_the_same_attempts(name: str, attempts_of: AttemptsOf) -> None:
    assert attempts_of(name, seed=3) == attempts_of(name, seed=3)


@pytest.mark.parametrize("name", WRITTEN_HERE)
def test_a_system_prompt_and_earlier_turns_stay_in_front(name: str, attempts_of: AttemptsOf, behavior: EvalPrompt) -> None:
    before = (
        {"role": "system", "content": "You work for a locksmith."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good morning."},
    )
    for attempt in attempts_of(name, on=replace(behavior, conversation=(*before, *behavior.conversation))):
        assert attempt.conversation[:3] == before
        roles = [turn["role"] for turn in attempt.conversation[1:]]
        assert set(roles[::2]) == {"user"}
        assert set(roles[1::2]) == {"assistant"}


@pytest.mark.parametrize("name", OWN_WORDS)
def test_no_run_of_five_words_is_in_a_wrapper_that_anything_is_trained_on(name: str, attempts_of: AttemptsOf, behavior: EvalPrompt) -> None:
    trained = [wrapper.text for wrapper in (*WRAPPERS, *lab.TRAIN, *lab.DEV, *lab.TEST)]
    seen = set().union(*map(runs, trained))
    assert len(seen) > 500
    for attempt in attempts_of(name):
        for turn in attempt.conversation:
            assert not runs(turn["content"].replace(behavior.instruction, "{request}")) & seen, attempt.label
