"""Recipes: defaults that are written once, in the configs of the model, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mogu import MoguConfig
from mogu.errors import ConfigError
from mogu.modeling.config import BackboneConfig
from mogu.training import Recipe, recipe_from
from mogu.training.recipe import BackboneSection, MoguSection
from mogu.training.search import routed_config


def recipe(**sections: Any) -> Recipe:
    tree = {"model": {"base": "base"}, "data": {"train": "pairs.jsonl"}, "run": {"output": "out"}}
    return recipe_from(tree | sections, source="test")


def test_what_a_recipe_leaves_out_is_the_default_of_the_saved_model() -> None:
    plain = MoguConfig()
    made = routed_config(recipe())
    assert made.model_copy(update={"base_model": None}) == plain
    assert (plain.rank, plain.lora_alpha, plain.router, plain.router_hidden, plain.routed_tokens) == (8, 16.0, "chain", 512, 5)
    assert routed_config(recipe(method="v2")).backbone == BackboneConfig()
    assert (BackboneConfig().rank, BackboneConfig().lora_alpha) == (1, 2.0)


@pytest.mark.parametrize(("section", "config"), [(MoguSection, MoguConfig), (BackboneSection, BackboneConfig)])
def test_every_setting_that_a_saved_model_records_has_its_default_in_the_config(section: Any, config: Any) -> None:
    shared = section.model_fields.keys() & config.model_fields.keys() - {"routed_tokens"}
    assert {"rank", "lora_alpha"} <= shared
    for name in shared:
        assert section.model_fields[name].default == config.model_fields[name].default
        assert section.model_fields[name].metadata == config.model_fields[name].metadata  # its bounds


@pytest.mark.parametrize(("given", "routed"), [(3, 3), ("all", "all"), (None, 5)])
def test_routed_tokens_are_a_number_or_all_or_the_default(given: Any, routed: int | str) -> None:
    assert routed_config(recipe(mogu={"routed_tokens": given})).routed_tokens == routed


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"mogu": {"routed_tokens": 0}}, r"mogu\.routed_tokens.*greater than or equal to 1"),
        ({"mogu": {"routed_tokens": "some"}}, r"mogu\.routed_tokens.*'all'"),
        ({"mogu": {"rank": 0}}, r"mogu\.rank: Input should be greater than or equal to 1"),
        ({"mogu": {"answer_marker": ""}}, r"mogu\.answer_marker"),
        ({"mogu": {"no_such": 1}}, r"mogu\.no_such: Extra inputs"),
        ({"method": "v2", "backbone": {"lora_alpha": 0}}, r"backbone\.lora_alpha"),
        ({"run": {"output": "out", "report_to": "tensorboard"}}, r"run\.report_to: Input should be a valid list"),
    ],
)
def test_a_setting_out_of_range_is_named(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe(**sections)
