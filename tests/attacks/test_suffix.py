"""Where a suffix stands, and that what is optimized is what is served: on the letters' tokenizer, and on byte-pair encoding."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from mogu.attacks import suffix as module
from mogu.attacks.attempt import ask
from mogu.attacks.suffix import WORDS, SuffixLayout, SuffixSearch, Tokens
from mogu.attacks.surfaces import Meter, surface_for
from mogu.data import opening_for
from mogu.defenses import TargetModel, make_defense
from mogu.errors import ConfigError
from mogu.evaluation.prompts import EvalPrompt
from mogu.hub import load_base, load_tokenizer
from mogu.lab import build_base
from tests.attacks.small_targets import BEHAVIOR, Small, small


@pytest.fixture(scope="module")
def letters(make_pair: Callable[..., Any], tokenizer: Any) -> Small:
    return small(make_pair, tokenizer)


@pytest.fixture(scope="module")
def lab() -> TargetModel:
    folder = str(build_base(progress=False))
    return TargetModel(load_base(folder), load_tokenizer(folder))


@pytest.fixture(params=["letters", "lab"])
def target(request: pytest.FixtureRequest) -> TargetModel:
    found = request.getfixturevalue(request.param)
    return found if isinstance(found, TargetModel) else found.target


def test_parts_make_up_the_prompt(target: TargetModel) -> None:
    layout = SuffixLayout(BEHAVIOR, target, random.Random(0))
    text = layout.text(layout.start)
    assert text == " ".join(["x"] * WORDS)
    assert layout.served(text) == f"{BEHAVIOR.instruction} {text}"
    assert [*layout.before, *layout.start, *layout.after] == target.encode(ask(BEHAVIOR, layout.served(text)).conversation)
    assert layout.rest(layout.start) == layout.start + layout.after
    assert "x" not in target.tokenizer.decode(layout.after)
    assert target.tokenizer.decode(layout.before).rstrip().endswith("lock")


def test_target_is_an_opening_that_complies(letters: Small) -> None:
    layout = SuffixLayout(BEHAVIOR, letters.target, random.Random(3))
    opening = opening_for(BEHAVIOR.request, random.Random(3))
    assert list(layout.target_ids) == letters.target.tokenizer(opening)["input_ids"]


def test_earlier_turns_stay(letters: Small) -> None:
    turns = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Pick a lock"})
    layout = SuffixLayout(EvalPrompt("b", "tests", "malicious", turns, "Pick a lock"), letters.target, random.Random(0))
    assert letters.target.tokenizer.decode(layout.before) == "<s><user>Hi<assistant>Hello<user>Pick a lock "


def test_only_what_is_tokenized_again_alike_has_a_text(target: TargetModel) -> None:
    layout = SuffixLayout(BEHAVIOR, target, random.Random(0))
    drawing = random.Random(1)
    kept = 0
    for _ in range(200):
        suffix = tuple(drawing.choices(layout.vocabulary, k=6))
        text = layout.text(suffix)
        wanted = [*layout.before, *suffix, *layout.after]
        plain = target.tokenizer.decode(suffix).removeprefix(" ")
        assert text == (plain if target.encode(ask(BEHAVIOR, f"{BEHAVIOR.instruction} {plain}").conversation) == wanted else None)
        kept += text is not None
    assert 0 < kept <= 200


def test_a_first_space_of_its_own_is_none_of_the_suffix(letters: Small) -> None:
    layout = SuffixLayout(BEHAVIOR, letters.target, random.Random(0))
    space = letters.target.tokenizer.convert_tokens_to_ids(" ")
    assert layout.text([space, *layout.start]) is None
    assert layout.text([*layout.start, space]) == f"{layout.text(layout.start)} "


def test_vocabulary_is_printable_and_not_special(target: TargetModel) -> None:
    vocabulary = SuffixLayout(BEHAVIOR, target, random.Random(0)).vocabulary
    texts = [target.tokenizer.decode([token]) for token in vocabulary]
    assert all(text and text.isascii() and text.isprintable() for text in texts)
    assert not set(vocabulary) & set(target.tokenizer.all_special_ids)
    assert max(vocabulary) < len(target.base.get_input_embeddings().weight)
    assert len(vocabulary) > 50


def test_template_that_changes_messages_is_refused(make_pair: Callable[..., Any], make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "<s>{% for message in messages %}{{ message.content[:5] }}{% endfor %}<assistant>"
    with pytest.raises(ConfigError, match="does not survive the chat template"):
        SuffixLayout(BEHAVIOR, small(make_pair, tokenizer).target, random.Random(0))


def test_search_keeps_the_best_of_what_is_served_alike(letters: Small) -> None:
    layout = SuffixLayout(BEHAVIOR, letters.target, random.Random(0))
    surface = surface_for(make_defense("none", letters.target), aware=True)
    drawing = random.Random(7)
    proposed: list[Tokens] = []

    def propose(search: SuffixSearch) -> Any:
        while True:
            proposed.append((*drawing.choices(layout.vocabulary, k=3), *layout.start[3:]))
            yield proposed[-1]

    search = SuffixSearch(layout, surface, propose, drawing)
    assert search.step()
    consistent = list(dict.fromkeys(one for one in proposed if layout.text(one) is not None))[: module.CANDIDATES]
    values = surface.evaluate_ids([layout.rest(one) for one in [*consistent, layout.start]], layout.target_ids).objective
    assert search.value == pytest.approx(float(values.min()), abs=1e-12)
    assert search.best == [*consistent, layout.start][int(values.argmin())]
    assert search.text == layout.text(search.best)


def test_search_stays_where_nothing_is_better_or_served_alike(letters: Small) -> None:
    layout = SuffixLayout(BEHAVIOR, letters.target, random.Random(0))
    surface = surface_for(make_defense("none", letters.target), aware=True, meter=Meter())
    space = letters.target.tokenizer.convert_tokens_to_ids(" ")
    search = SuffixSearch(layout, surface, lambda search: iter([search.best, (space,) * len(search.best)]), random.Random(0))
    assert not search.step()
    assert search.best == layout.start
    assert surface.meter.queries == 1  # of the first suffix, whose value was not known


@pytest.mark.parametrize(("evaluations", "candidates"), [(1, 8), (100, 10), (256, 25), (5000, 64), (float("inf"), 64)])
def test_a_small_budget_has_small_steps_rather_than_few(letters: Small, evaluations: float, candidates: int) -> None:
    layout = SuffixLayout(BEHAVIOR, letters.target, random.Random(0))
    surface = surface_for(make_defense("none", letters.target), aware=True, meter=Meter())
    surface.read(layout.before)
    before = surface.meter.flops
    surface.evaluate_ids([layout.rest(layout.start)], layout.target_ids)
    one = surface.meter.flops - before
    search = SuffixSearch(layout, surface, lambda search: iter(()), random.Random(0), budget=evaluations * one)
    assert search.candidates == candidates
