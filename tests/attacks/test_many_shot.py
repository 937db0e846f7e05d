"""Shots alternate, stop where content would begin, come from the training split only, and leave room in a small context."""

from __future__ import annotations

import re

from mogu.data.starter import starter_instructions
from mogu.evaluation.prompts import EvalPrompt
from tests.attacks.conftest import AttemptsOf

OPENING = re.compile(r"(?:Sure|Of course|Certainly|Absolutely)[!,] [Hh]ere (?:is|are) .+: \[the answer\]")


def test_earlier_turns_alternate_and_the_request_is_last(attempts_of: AttemptsOf, behavior: EvalPrompt) -> None:
    for attempt in attempts_of("many_shot"):
        *shots, last = attempt.conversation
        assert [turn["role"] for turn in shots] == ["user", "assistant"] * (len(shots) // 2)
        assert last["role"] == "user"
        if attempt.label.endswith("earlier turns"):
            assert last["content"] == behavior.instruction
        else:
            assert shots == []
            assert last["content"].endswith(f"\n\nUser: {behavior.instruction}\nAssistant:")


def test_no_answer_goes_beyond_its_opening(attempts_of: AttemptsOf) -> None:
    for attempt in attempts_of("many_shot"):
        answers = [turn["content"] for turn in attempt.conversation if turn["role"] == "assistant"]
        answers += re.findall(r"^Assistant: (.*)$", attempt.conversation[-1]["content"], re.MULTILINE)
        assert answers
        for answer in answers:
            assert OPENING.fullmatch(answer), answer


def test_both_forms_hold_the_same_shots_and_more_at_every_step(attempts_of: AttemptsOf) -> None:
    numbers: dict[str, list[int]] = {"harmless": [], "malicious": []}
    attempts = attempts_of("many_shot")
    for turns, text in zip(attempts[::2], attempts[1::2], strict=True):
        asked = [turn["content"] for turn in turns.conversation[:-1:2]]
        assert re.findall(r"^User: (.*)$", text.conversation[-1]["content"], re.MULTILINE)[:-1] == asked
        numbers[re.search(r"harmless|malicious", turns.label)[0]].append(len(asked))
    for counts in numbers.values():
        assert counts[:2] == [4, 16]
        assert 25 <= counts[2] <= 64


def test_shots_are_training_instructions_of_their_kind(attempts_of: AttemptsOf) -> None:
    known = {
        name: {instruction.text for instruction in starter_instructions(kind, "train")}
        for name, kind in (("harmless", "benign"), ("malicious", "malicious"))
    }
    for attempt in attempts_of("many_shot")[::2]:
        asked = {turn["content"] for turn in attempt.conversation[:-1:2]}
        assert asked <= known["malicious" if "malicious" in attempt.label else "harmless"]


def test_prompts_leave_room_in_a_context_of_2048_tokens(attempts_of: AttemptsOf) -> None:
    for seed in range(5):
        for attempt in attempts_of("many_shot", seed=seed):
            words = sum(len(turn["content"].split()) for turn in attempt.conversation)
            assert 1.5 * words + 5 * len(attempt.conversation) <= 1700


def test_a_long_request_gets_fewer_shots_and_no_step_is_taken_twice(attempts_of: AttemptsOf) -> None:
    long = EvalPrompt.plain("b-2", "tests", "malicious", "very " * 850 + "long")  # 1,280 tokens: room for 6 to 8 shots
    attempts = attempts_of("many_shot", on=long)
    assert [attempt.label.split()[0] for attempt in attempts] == ["4"] * 4 + ["16"] * 4
    assert all(4 < len(attempt.conversation) // 2 < 16 for attempt in attempts[4::2])
    assert attempts_of("many_shot", on=EvalPrompt.plain("b-3", "tests", "malicious", "very " * 1200)) == []


def test_the_request_itself_is_no_shot(attempts_of: AttemptsOf) -> None:
    shortest = min((instruction.text for instruction in starter_instructions("malicious", "train")), key=len)
    own = EvalPrompt.plain("b-4", "tests", "malicious", shortest)
    for seed in range(3):
        for attempt in attempts_of("many_shot", on=own, seed=seed):
            assert sum(turn["content"].count(shortest) for turn in attempt.conversation if turn["role"] == "user") == 1
