"""Random search: what it replaces, that what it sends never gets worse, and that it stops when its operations are spent."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mogu.attacks.attempt import attack_info
from mogu.attacks.random_search import WIDEST, mutations
from mogu.attacks.suffix import EVERY, SuffixLayout, SuffixSearch
from mogu.attacks.surfaces import surface_for
from mogu.defenses import make_defense
from tests.attacks.small_targets import BEHAVIOR, Small, attempts, nats, small

FLOPS = 5e9


@pytest.fixture(scope="module")
def pair(make_pair: Callable[..., Any], tokenizer: Any) -> Small:
    return small(make_pair, tokenizer)


@pytest.mark.parametrize(("progress", "width"), [(0.0, WIDEST), (0.5, 2), (1.0, 1)])
def test_mutations_are_in_a_row_and_become_narrower(progress: float, width: int, pair: Small) -> None:
    layout = SuffixLayout(BEHAVIOR, pair.target, random.Random(0))
    search = SuffixSearch(layout, surface_for(make_defense("none", pair.target), aware=False), mutations, random.Random(1))
    search.progress = progress
    widths = set()
    for mutated in itertools.islice(mutations(search), 200):
        assert len(mutated) == len(layout.start)
        assert set(mutated) <= {*layout.vocabulary, *layout.start}
        changed = [index for index, (new, old) in enumerate(zip(mutated, layout.start, strict=True)) if new != old]
        widths.add(changed[-1] - changed[0] + 1 if changed else 0)
    assert max(widths) == width


@pytest.mark.parametrize("name", ["random_search", "random_search_aware"])
def test_served_suffixes_get_better(name: str, pair: Small) -> None:
    surface = surface_for(make_defense("mogu", pair.target), aware=attack_info(name).aware)
    tried = attempts(name, surface, FLOPS)
    layout = SuffixLayout(BEHAVIOR, pair.target, random.Random(0))
    target = torch.tensor(layout.target_ids)
    losses = []
    for attempt in tried:
        ids = pair.target.encode(attempt.conversation)
        with torch.no_grad():
            logits = pair.target.base(input_ids=torch.tensor([[*ids, *layout.target_ids]])).logits[0, len(ids) - 1 : -1]
        losses.append(float(nats(logits, target).mean()))
    assert len(tried) >= 2
    assert len({attempt.conversation[-1]["content"] for attempt in tried}) == len(tried)
    assert all(int(attempt.label.removeprefix("step ")) % EVERY == 0 for attempt in tried[:-1])
    if name == "random_search":
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < losses[0]
    assert FLOPS <= surface.meter.flops < 1.5 * FLOPS


def test_same_seed_sends_the_same(pair: Small) -> None:
    defense = make_defense("mogu", pair.target)
    once, again, other = (attempts("random_search", surface_for(defense, aware=False), FLOPS / 5, seed=seed, most=3) for seed in (1, 1, 2))
    assert once == again
    assert once != other
