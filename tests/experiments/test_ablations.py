"""The ablations: each variant's recipe differs in the one setting, models are read in other ways, and tables are worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from experiments.ablations import ABLATIONS, WITHOUT_BACKBONE, Ablation, Bench, Training, Variant, always_adapt, markdown, table, trainings
from mogu import MoguConfig, MoguModel
from mogu.modeling.config import BackboneConfig


def test_recipes_differ_in_what_is_varied(tmp_path: Path) -> None:
    bench = Bench("smollm2", tmp_path, 2)
    for ablation in ABLATIONS.values():
        first = bench.recipe(ablation.variants[0], 1).model_dump(exclude={"run"})
        for variant in ablation.variants[1:]:
            other = bench.recipe(variant, 1).model_dump(exclude={"run"})
            changed = {(section, key) for section in first for key in _changed(first[section], other[section])}
            if variant.training == ablation.variants[0].training:
                assert not changed  # the same model, read in another way
            elif variant.method != WITHOUT_BACKBONE:
                assert changed == {tuple(setting.partition("=")[0].split(".")) for setting in variant.settings}
    cells = [variant.cell for ablation in ABLATIONS.values() for variant in ablation.variants[1:]]
    assert len(set(cells)) == len(cells)
    assert not any("/" in cell for cell in cells)


def _changed(first: object, other: object) -> list[str]:
    if not isinstance(first, dict) or not isinstance(other, dict):
        return [] if first == other else [""]
    return [key for key in first if first[key] != other[key]]


def test_without_its_backbone_v2_is_v1_on_the_same_layers(tmp_path: Path) -> None:
    bench = Bench("smollm2", tmp_path, 2)
    recipe, v2 = bench.recipe(Variant("none", WITHOUT_BACKBONE), 0), bench.recipe(Variant("the recipe", "v2"), 0)
    assert (recipe.method, recipe.mogu, recipe.router, recipe.choice) == ("v1", v2.mogu, v2.router, v2.choice)
    assert recipe.mogu.layers == list(range(15, 30))


def test_variants_that_are_read_in_other_ways_share_a_training() -> None:
    published, wide = ABLATIONS["width"].variants[0], Variant("wide", settings=("mogu.router_hidden=1024",))
    once, all_tokens = Variant("1", routed_tokens=1), Variant("all", routed_tokens="all")
    assert trainings([published, wide, once, published, all_tokens], 2) == [
        Training(group, seed) for seed in (0, 1) for group in ((published, once, all_tokens), (wide,))
    ]


@pytest.mark.parametrize("base", ["lab", "smollm2"])
def test_a_seed_has_a_place_of_its_own(base: str, tmp_path: Path) -> None:
    bench = Bench(base, tmp_path, 2, settings=("glad.epochs=0.1",))
    first, second = (bench.recipe(ABLATIONS["width"].variants[1], seed) for seed in (0, 1))
    assert first.run.output != second.run.output
    assert (first.run.seed, second.run.seed) == (0, 1)
    assert first.glad.epochs == 0.1
    assert first.mogu.router_hidden == 128


def test_a_backbone_that_is_always_active_is_that_of_routing(make_base: Callable[..., PreTrainedModel]) -> None:
    model = MoguModel.from_base(make_base("llama"), MoguConfig(rank=2, router="linear", backbone=BackboneConfig(rank=2, lora_alpha=4)))
    torch.manual_seed(0)
    for _, layer in model.injected.adapted:
        with torch.no_grad():
            layer.down.normal_()
            layer.up.normal_(std=0.1)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), model.routing("on"):  # responders of zero: routing adds nothing but the backbone
        wanted = model(input_ids=ids).logits
    with torch.no_grad(), model.routing("off"):
        assert not torch.allclose(model(input_ids=ids).logits, wanted)
    always_adapt(model)
    for mode in ("on", "off"):
        with torch.no_grad(), model.routing(mode):
            torch.testing.assert_close(model(input_ids=ids).logits, wanted)


def test_tables_are_made_of_the_cells_that_there_are(tmp_path: Path) -> None:
    bench = Bench("smollm2", tmp_path, None)
    first, second, third = (Variant(name, settings=(f"router.penalty={name}",)) for name in "abc")
    refused = {(first, 0): 4, (first, 1): 6, (second, 0): 8}
    for (variant, seed), count in refused.items():
        answers = ["refused"] * count + ["complied"] * (10 - count)
        verdicts = {"malicious": answers, "malicious_wrapped": answers, "benign": ["answered"] * 3 + ["refused"]}
        verdicts |= {"benign_wrapped": ["answered"] * 4, "borderline": ["refused"] * 4}
        file = bench.cell(variant, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"made": bench.made, "verdicts": verdicts}))
    other = Bench("smollm2", tmp_path, 5)
    assert other.found(first, 0) is None  # measured on other prompts
    rows = table(bench, Ablation("letters", (first, second, third)), 2)
    assert list(rows) == ["a", "b"]
    assert rows["a"]["direct"]["value"] == pytest.approx(0.5)
    assert rows["b"]["direct"]["value"] == pytest.approx(0.8)
    assert rows["a"]["benign_plain_answered"]["value"] == pytest.approx(0.75)
    assert rows["b"]["more refused"]["value"] == pytest.approx(0.8 - 0.4)  # seed 0 alone has both
    text = markdown("letters", rows)
    assert "| a | 50.0 (" in text
    assert text.splitlines()[-1].endswith("| 1 |")
