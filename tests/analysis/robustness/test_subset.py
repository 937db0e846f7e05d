"""The robust subset stays within the tolerance when its modules are perturbed together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mogu.analysis import measure_robustness, search_subset
from mogu.data import Record
from mogu.errors import ConfigError

MakeBase = Callable[..., PreTrainedModel]
MakeRecords = Callable[..., list[Record]]
MakeByHand = Callable[..., Any]


@pytest.mark.parametrize("tolerance", [0.2, 0.6])
def test_the_subset_perturbed_together_is_within_the_tolerance(
    make_base: MakeBase, tokenizer: PreTrainedTokenizerFast, tolerance: float, word_records: list[Record], by_hand: MakeByHand
) -> None:
    model = make_base("llama")
    found = measure_robustness(model, tokenizer, word_records, strength=0.3, draws=2)
    subset = search_subset(model, tokenizer, word_records, found, tolerance=tolerance)
    hand = by_hand(model, tokenizer)
    together = hand.drop(subset.names, strength=0.3, draws=2)
    assert 0 < len(subset.names) < len(found.modules)
    assert subset.drop == pytest.approx(together, rel=1e-5)
    assert together <= tolerance * found.together
    # Whatever came after the last module that was taken was tried with exactly this set, and was too much.
    order = sorted(found.modules, key=lambda one: one.drop)
    last = max(index for index, one in enumerate(order) if one.name in subset.names)
    for one in order[last + 1 :]:
        assert hand.drop([*subset.names, one.name], strength=0.3, draws=2) > tolerance * found.together
    assert list(subset.names) == [one.name for one in found.modules if one.name in subset.names]
    assert search_subset(model, tokenizer, word_records, found, tolerance=tolerance) == subset


def test_the_search_continues_after_a_module_that_does_not_fit(
    fragile: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, word_records: list[Record], fragile_names: set[str]
) -> None:
    found = measure_robustness(fragile, tokenizer, word_records, draws=1)
    upside_down = tuple(dataclasses.replace(one, drop=1 / one.drop) for one in found.modules)
    assert set(search_subset(fragile, tokenizer, word_records, dataclasses.replace(found, modules=upside_down), tolerance=0.2).names) == {
        one.name for one in found.modules if one.name not in fragile_names
    }


def test_a_map_of_another_model(make_base: MakeBase, tokenizer: PreTrainedTokenizerFast, word_records: list[Record]) -> None:
    found = measure_robustness(make_base("gpt2"), tokenizer, word_records, draws=1)
    with pytest.raises(ConfigError, match="The map has 12 modules, the model 21"):
        search_subset(make_base("llama"), tokenizer, word_records, found)
