"""Attacks run against the lab's base model: what is sent, when it ends, and what it is said to have cost."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from mogu.attacks.attempt import Attempts, Context, ask, attack
from mogu.attacks.passes import flops_per_token
from mogu.attacks.runner import Budget, run_attack
from mogu.defenses import Defense, TargetModel, make_defense
from mogu.evaluation.prompts import EvalPrompt
from mogu.inference.replies import ReplySettings
from mogu.lab import build_base
from mogu.lab.splits import prompts

SETTINGS = ReplySettings(24)
AMPLE = Budget(queries=None, flops=1e18)


@pytest.fixture(scope="module")
def defense() -> Defense:
    return make_defense("none", TargetModel.load(build_base(progress=False)))


@pytest.fixture(scope="module")
def by_outcome(defense: Defense) -> dict[str, list[EvalPrompt]]:
    """The lab's malicious test prompts by what the base model does with them."""
    malicious = [prompt for prompt in prompts("test") if prompt.is_malicious][:200]
    replies = defense.reply([prompt.conversation for prompt in malicious], SETTINGS)
    found: dict[str, list[EvalPrompt]] = {}
    for prompt, reply in zip(malicious, replies, strict=True):
        found.setdefault(prompt.outcome(reply.text), []).append(prompt)
    return found


@pytest.fixture
def add() -> Callable[..., str]:
    """``add(function, queries=3)`` registers an attack, and returns its name."""
    numbers = itertools.count()

    def register(function: Callable[[EvalPrompt, Context], Attempts], **fields: int) -> str:
        name = f"test-{next(numbers)}"
        attack(name, label=name, family="direct", **fields)(function)
        return name

    return register


def run(name: str, defense: Defense, behaviors: list[EvalPrompt], budget: Budget = AMPLE, **others: object) -> list:
    return run_attack(name, defense, behaviors, budget=budget, settings=SETTINGS, batch_size=8, **others)


def test_plain_breaks_what_the_model_complies_with_and_nothing_else(defense: Defense, by_outcome: dict[str, list[EvalPrompt]]) -> None:
    complied, refused = by_outcome["complied"][:9], by_outcome["refused"][:9]
    results = run("plain", defense, [*complied, *refused])
    assert [result.broken for result in results] == [True] * 9 + [False] * 9
    assert [result.id for result in results] == [prompt.id for prompt in [*complied, *refused]]
    assert {len(result.attempts) for result in results} == {1}


@pytest.mark.parametrize("scripted", [False, True])  # of a scripted one, some were made ahead, which count for nothing
def test_an_attack_ends_with_its_first_success(
    add: Callable[..., str], defense: Defense, by_outcome: dict[str, list[EvalPrompt]], scripted: bool
) -> None:
    complies, refuses = by_outcome["complied"][0], by_outcome["refused"][0]

    def in_turn(behavior: EvalPrompt, context: Context) -> Attempts:
        for number, prompt in enumerate((refuses, refuses, complies, complies)):
            yield ask(prompt, prompt.instruction, label=f"number {number}")

    (result,) = run(add(in_turn, scripted=scripted), defense, [complies])
    assert [attempt.label for attempt in result.attempts] == ["number 0", "number 1", "number 2"]
    assert [attempt.verdict.outcome for attempt in result.attempts] == ["refused", "refused", "complied"]
    assert [attempt.queries for attempt in result.attempts] == [1, 2, 3]
    assert (result.broken, result.queries) == (True, 3)


def test_an_attack_is_sent_the_replies_to_its_attempts(
    add: Callable[..., str], defense: Defense, by_outcome: dict[str, list[EvalPrompt]]
) -> None:
    refuses = by_outcome["refused"][:3]
    heard: dict[str, list[str]] = {prompt.id: [] for prompt in refuses}

    def listening(behavior: EvalPrompt, context: Context) -> Attempts:
        for _ in range(2):
            heard[behavior.id].append((yield ask(behavior, behavior.instruction)))

    run(add(listening), defense, refuses)
    expected = {prompt.id: defense.reply([prompt.conversation], SETTINGS)[0].text for prompt in refuses}
    assert heard == {id: [reply] * 2 for id, reply in expected.items()}


def endless(behavior: EvalPrompt, context: Context) -> Attempts:
    while True:
        yield ask(behavior, behavior.instruction)


def test_the_budget_of_queries_is_kept(add: Callable[..., str], defense: Defense, by_outcome: dict[str, list[EvalPrompt]]) -> None:
    name, refuses = add(endless, queries=5), by_outcome["refused"][:2]
    assert [len(result.attempts) for result in run(name, defense, refuses)] == [5, 5]
    assert [len(result.attempts) for result in run(name, defense, refuses, Budget(2, 1e18))] == [2, 2]


def test_operations_are_those_of_the_tokens_read_and_written(
    add: Callable[..., str], defense: Defense, by_outcome: dict[str, list[EvalPrompt]]
) -> None:
    """Two for each parameter that a token is multiplied with; all of the prompt is read, and all of the reply but for its last token."""
    (refuses,) = by_outcome["refused"][:1]
    prompt = len(defense.target.encode(refuses.conversation))
    (reply,) = defense.reply([refuses.conversation], SETTINGS)
    written = reply.tokens if reply.finished else reply.tokens - 1  # the last token is never read; an end mark is written besides
    model = defense.target.base
    size = sum(parameter.numel() for name, parameter in model.named_parameters() if "embed_tokens" not in name)
    head = model.get_output_embeddings().weight
    size += head.numel() if head is model.get_input_embeddings().weight else 0
    assert flops_per_token(model) == 2 * size
    (result,) = run(add(endless, queries=1), defense, [refuses])
    assert result.flops == 2 * size * (prompt + written)
    (stopped,) = run(add(endless, queries=9), defense, [refuses], Budget(None, 2.5 * result.flops))
    assert len(stopped.attempts) == 3  # the third goes over the budget, and is the last


def test_what_others_cannot_serve_is_only_judged(
    add: Callable[..., str], defense: Defense, by_outcome: dict[str, list[EvalPrompt]]
) -> None:
    (complies,) = by_outcome["complied"][:1]
    said = defense.reply([complies.conversation], SETTINGS)[0].text

    def by_itself(behavior: EvalPrompt, context: Context) -> Attempts:
        yield ask(behavior, "nothing", reply="I will not help you with that.")
        yield ask(behavior, "nothing", reply=said)

    (result,) = run(add(by_itself), defense, [complies])
    assert [attempt.verdict.outcome for attempt in result.attempts] == ["refused", "complied"]
    assert (result.queries, result.flops) == (0, 0.0)


def test_replies_are_sampled_as_attempts_say(add: Callable[..., str], defense: Defense, by_outcome: dict[str, list[EvalPrompt]]) -> None:
    refuses = by_outcome["refused"][:2]
    heard: list[str] = []

    def sampled(behavior: EvalPrompt, context: Context) -> Attempts:
        for seed in (1, 1, 2):
            heard.append((yield ask(behavior, behavior.instruction, temperature=3.0, seed=seed, extra_tokens=8)))

    run(add(sampled), defense, refuses[:1])
    how = ReplySettings(SETTINGS.max_new_tokens + 8, temperature=3.0, seed=1)
    assert heard[0] == heard[1] == defense.reply([refuses[0].conversation], how)[0].text
    assert heard[2] != heard[0]


def test_texts_are_kept_only_if_asked_for(defense: Defense, by_outcome: dict[str, list[EvalPrompt]]) -> None:
    (refuses,) = by_outcome["refused"][:1]
    (silent,) = run("plain", defense, [refuses])
    (kept,) = run("plain", defense, [refuses], keep_replies=True)
    assert silent.attempts[0].texts is None
    assert kept.attempts[0].texts == {
        "conversation": list(refuses.conversation),
        "reply": defense.reply([refuses.conversation], SETTINGS)[0].text,
    }


def test_randomness_belongs_to_behavior_and_attack(
    add: Callable[..., str], defense: Defense, by_outcome: dict[str, list[EvalPrompt]], tmp_path: Path
) -> None:
    drawn: dict[str, list[float]] = {}

    def drawing(behavior: EvalPrompt, context: Context) -> Attempts:
        drawn.setdefault(behavior.id, []).append(context.rng.random())
        yield ask(behavior, behavior.instruction)

    name, refuses = add(drawing), by_outcome["refused"][:3]
    run(name, defense, refuses)
    run(name, defense, refuses[:1])  # whatever else is attacked
    assert drawn[refuses[0].id][0] == drawn[refuses[0].id][1]
    assert len({numbers[0] for numbers in drawn.values()}) == 3
