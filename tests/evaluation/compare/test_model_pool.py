"""Several hardened models on one base: each replies as it does alone, and models on other bases are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mogu import MoguConfig, MoguModel
from mogu.defenses import REFUSAL, DefendedReply, TargetModel, defense, make_defense
from mogu.defenses.registry import Answer
from mogu.errors import ConfigError
from mogu.evaluation.compare import Comparison, Lineup, compare
from mogu.evaluation.compare.model_pool import ModelPool
from mogu.evaluation.prompt_sources import read_prompts
from mogu.hub import load_base, load_tokenizer
from mogu.inference.replies import ReplySettings
from mogu.modeling.config import BackboneConfig
from mogu.modeling.prompt_contract import record_prompt

QUICK: dict[str, Any] = {"limit": 1, "shifts": (), "max_new_tokens": 8, "cost_prompts": 1, "cost_rounds": 1}


@pytest.fixture(scope="module")
def v2_model(lab_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A V2 model on the lab's base with responders drawn at random."""
    folder = tmp_path_factory.mktemp("models") / "second"
    random = torch.Generator().manual_seed(5)
    config = MoguConfig(layers=[2, 3], backbone=BackboneConfig(rank=2), base_model=str(lab_base))
    model = MoguModel.from_base(load_base(str(lab_base)), config)
    for layer in model.routed_layers:
        layer.set_responder(
            "unwill", torch.randn(8, layer.in_features, generator=random), torch.randn(layer.out_features, 8, generator=random)
        )
    model.save_pretrained(folder)
    return folder


def test_any_number_of_models_is_measured_and_a_new_defense_with_them(lab_mogu: Path, v2_model: Path, tmp_path: Path) -> None:
    third = shutil.copytree(lab_mogu, tmp_path / "third")
    config = json.loads((third / "mogu_config.json").read_text())
    (third / "mogu_config.json").write_text(json.dumps({**config, "dial": 4.0}))

    @defense("always_no", label="Always no", deterministic=True)
    def always_no(target: TargetModel) -> Answer:
        return lambda conversations, settings: [DefendedReply(REFUSAL, 0, True, intervened=True) for _ in conversations]

    out, models = tmp_path / "out", {"model": lab_mogu, "second": v2_model, "third": third}
    compared = Comparison(tuple(map(str, models.values())), out, ("lab",), ("none", "always_no", "mogu"), **QUICK)
    results = compare(compared)

    assert results.made["defenses"] == ["none", "always_no", "model", "second", "third"]
    assert results.made["models"] == list(models)
    conversations = [prompt.conversation for prompt in read_prompts(["lab"], limit=1)]
    for name, folder in models.items():
        cell = json.loads((out / f"cells/lab/seed-0/{name}.json").read_text())
        alone = make_defense("mogu", TargetModel.load(folder)).reply(conversations, ReplySettings(8, seed=0))
        assert [reply["reply"] for reply in cell["replies"]] == [reply.text for reply in alone]
        assert (cell["defense"], cell["model"]) == ("mogu", name)
    assert len({(out / f"cells/lab/seed-0/{name}.json").read_text().partition('"replies"')[2] for name in models}) == 3
    rows = {(metric.section, metric.defense, metric.category, metric.measure): metric.estimate.value for metric in results.numbers}
    assert {defense for section, defense, _, _ in rows if section == "model"} == {"second", "third"}
    for name in ("second", "third"):
        for category, measure in (("all_benign", "answered"), ("all_malicious", "refused")):
            own, first = (rows["rate", system, category, measure] for system in (name, "model"))
            assert rows["model", name, category, measure] == pytest.approx(own - first)
    assert rows["rate", "always_no", "all_malicious", "refused"] == 1
    assert {defense for section, defense, _, _ in rows if section == "routing"} == {"model"}
    assert {defense for section, defense, _, _ in rows if section == "detector"} == {"model", "second", "third"}
    costs = {cost["defense"]: cost for cost in json.loads((out / "costs.json").read_text())["costs"]}
    assert costs["second"]["added_parameters"] == MoguModel.from_pretrained(v2_model).added_parameters()
    assert costs["none"]["added_parameters"] is None
    page = (out / "report.html").read_text()
    assert ">Always no</text>" in page
    assert "Differences from model," in page


def changed(model: Path, target: Path, **changes: Any) -> Path:
    """A copy of a saved model with another config."""
    shutil.copytree(model, target)
    config = json.loads((target / "mogu_config.json").read_text())
    (target / "mogu_config.json").write_text(json.dumps({**config, **changes}))
    return target


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_model": "someone/else"}, r"different base models: first on someone/else, model on .*--base-model"),
        ({"base_revision": "0123abc"}, "first on .* at 0123abc, model on"),
    ],
)
def test_models_that_kept_no_weights_of_their_bases_are_on_one_if_they_name_the_same(
    lab_mogu: Path, tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    first = changed(lab_mogu, tmp_path / "first", **changes)
    (first / "base_identity.safetensors").unlink()
    with pytest.raises(ConfigError, match=words):
        compare(Comparison((str(first), str(lab_mogu)), tmp_path / "out", ("lab",), ("mogu",), **QUICK))
    assert not (tmp_path / "out").exists()


def test_models_on_one_base_under_two_names_are_compared_and_on_two_bases_under_one_name_are_not(
    lab_mogu: Path, lab_base: Path, tmp_path: Path
) -> None:
    moved = changed(lab_mogu, tmp_path / "moved", base_model="someone/else")
    renamed = Comparison((str(lab_mogu), str(moved)), tmp_path / "out", ("lab",), ("mogu",), **QUICK)
    assert ModelPool(Lineup(renamed)).base_path == str(lab_base)
    numbers = load_file(moved / "base_identity.safetensors")
    save_file({name: value + 1 for name, value in numbers.items()}, moved / "base_identity.safetensors")
    with pytest.raises(ConfigError, match="different base models"):
        ModelPool(Lineup(renamed))


def test_a_base_that_was_moved_is_named_once_for_all_models(lab_mogu: Path, lab_base: Path, tmp_path: Path) -> None:
    first = changed(lab_mogu, tmp_path / "first", base_model="/gone/base")
    compared = Comparison((str(first), str(lab_mogu)), tmp_path / "out", ("lab",), ("mogu",), base_model=str(lab_base), **QUICK)
    assert ModelPool(Lineup(compared)).base_path == str(lab_base)


def test_each_model_reads_the_prompt_that_it_was_trained_with_and_baselines_that_of_the_first(
    lab_mogu: Path, lab_base: Path, tmp_path: Path
) -> None:
    model = MoguModel.from_pretrained(lab_mogu)
    record_prompt(model.mogu_config, load_tokenizer(str(lab_base)), "Answer in one word.")
    model.save_pretrained(tmp_path / "brief")
    compared = Comparison((str(lab_mogu), str(tmp_path / "brief")), tmp_path / "out", ("lab",), ("none", "mogu"), **QUICK)
    pool = ModelPool(Lineup(compared))
    plain, brief = (pool.target(name, 0) for name in ("model", "brief"))
    asked = [{"role": "user", "content": "Hello"}]
    assert brief.encode(asked) == plain.encode([{"role": "system", "content": "Answer in one word."}, *asked]) != plain.encode(asked)
    assert pool.target("none", 0).encode(asked) == plain.encode(asked)
