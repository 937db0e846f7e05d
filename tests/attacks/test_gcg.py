"""GCG: its gradient against replacements tried out, and that what it sends is what it optimized, and never worse."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mogu.attacks.attempt import attack_info
from mogu.attacks.gcg import TOP, substitutions, suffix_gradient
from mogu.attacks.suffix import SuffixLayout, SuffixSearch
from mogu.attacks.surfaces import surface_for
from mogu.defenses import make_defense
from tests.attacks.small_targets import BEHAVIOR, Small, attempts, nats, small

FLOPS = 6e9


@pytest.fixture(scope="module")
def pair(make_pair: Callable[..., Any], tokenizer: Any) -> Small:
    return small(make_pair, tokenizer)


@pytest.fixture
def search(pair: Small) -> SuffixSearch:
    surface = surface_for(make_defense("mogu", pair.target), aware=True)
    return SuffixSearch(SuffixLayout(BEHAVIOR, pair.target, random.Random(0)), surface, substitutions, random.Random(1))


def test_gradient_foretells_a_small_move_towards_a_token(search: SuffixSearch) -> None:
    gradient = suffix_gradient(search)
    surface, layout = search.surface, search.layout
    suffix, other = surface.embed(search.best), surface.embed([30])[0]
    for position in (0, 7):
        moved = [suffix.clone(), suffix.clone()]
        for sign, one in zip((1, -1), moved, strict=True):
            one[position] += sign * 1e-6 * (other - suffix[position])
        with torch.no_grad():
            rest = torch.stack([torch.cat([one, surface.embed(layout.after)]) for one in moved])
            up, down = surface.evaluate(rest, layout.target_ids).objective
        torch.testing.assert_close(gradient[position] @ (other - suffix[position]), (up - down) / 2e-6, rtol=1e-6, atol=1e-8)


def test_substitutions_are_the_most_promising_ones(search: SuffixSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mogu.attacks.gcg.TOP", 5)
    gradient, vocabulary = suffix_gradient(search), search.layout.vocabulary
    table = search.surface.table
    found: dict[int, set[int]] = {}
    for suffix in itertools.islice(substitutions(search), 2000):
        changed = [index for index, (new, old) in enumerate(zip(suffix, search.best, strict=True)) if new != old]
        assert len(changed) <= 1
        for index in changed:
            found.setdefault(index, set()).add(suffix[index])
    for index in range(len(search.best)):
        best = sorted(vocabulary, key=lambda token, index=index: float(gradient[index] @ table[token]))[:5]
        assert found[index] == set(best) - {search.best[index]}


def test_top_is_no_more_than_there_are(search: SuffixSearch) -> None:
    assert len(search.layout.vocabulary) < TOP
    assert next(substitutions(search))


@pytest.mark.parametrize(("name", "defense"), [("gcg", "mogu"), ("gcg_aware", "mogu"), ("gcg_aware", "mogu_score")])
def test_what_is_served_is_what_was_optimized_and_gets_better(
    name: str, defense: str, pair: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    surface = surface_for(make_defense(defense, pair.target), aware=attack_info(name).aware)
    optimized: list[tuple[list[int], float]] = []
    step = SuffixSearch.step

    def recorded(search: SuffixSearch) -> bool:
        better = step(search)
        layout = search.layout
        optimized.append(([*layout.before, *search.best, *layout.after], search.value))
        return better

    monkeypatch.setattr(SuffixSearch, "step", recorded)
    tried = attempts(name, surface, FLOPS)
    values = [value for _, value in optimized]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0] - 0.1
    assert len(tried) >= 2
    target_ids = SuffixLayout(BEHAVIOR, pair.target, random.Random(0)).target_ids
    routed = 5 if (name, defense) == ("gcg_aware", "mogu") else 0
    for attempt in tried:
        ids, value = optimized[int(attempt.label.removeprefix("step ")) - 1]
        assert pair.target.encode(attempt.conversation) == ids
        assert attempt.reply is None
        if defense == "mogu":  # the value, from passes over the served ids that know nothing of caches or of our layers
            whole = torch.tensor([[*ids, *target_ids]])
            on, off = (pair.slow.logits(whole, routed=mode)[0, len(ids) - 1 : -1] for mode in (True, False))
            wanted = nats(torch.cat([on[:routed], off[routed:]]), torch.tensor(target_ids)).mean()
            if routed:
                pair.slow.logits(whole[:, : len(ids) + routed - 1])
                shares = torch.stack([layer.unwill_weight / (layer.unwill_weight + layer.glad_weight) for layer in pair.slow.layers])
                wanted = wanted + shares[:, 0, len(SuffixLayout(BEHAVIOR, pair.target, random.Random(0)).before) :].mean()
            assert value == pytest.approx(float(wanted), abs=1e-8)
