"""MoGU V2 trained: which layers, at which rates, what is saved, and how many parameters it adds to the shipped recipes' models."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mogu import MoguConfig, MoguModel
from mogu.analysis import Probe, probe
from mogu.data import Record, read_records
from mogu.errors import ConfigError, DataError, MoguError
from mogu.modeling.config import BackboneConfig
from mogu.modeling.injection import InjectedLayers
from mogu.modeling.layers import AdaptedLinear
from mogu.training import Recipe, harden, plan, read_recipe, recipe_from
from mogu.training.examples import router_examples
from mogu.training.recipe import RouterStage, RunSection
from mogu.training.selection import spans
from mogu.training.stages import StageSetting, train_router

pytestmark = pytest.mark.core

RECIPES = Path(str(files("mogu.recipes")))
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def make(base_folder: Path, record_files: tuple[Path, Path]) -> Make:
    def make(folder: Path, **changes: dict[str, Any]) -> Recipe:
        sections: dict[str, Any] = {
            "method": "v2",
            "model": {"base": str(base_folder)},
            "data": {"train": str(record_files[0]), "dev": str(record_files[1])},
            "mogu": {"router_hidden": 16},
            "probe": {"top": [1, 2], "folds": 2},
            "backbone": {"learning_rate": 1e-3},
            "glad": {"epochs": 1, "learning_rate": 1e-3},
            "unwill": {"epochs": 1},
            "router": {"epochs": 1, "learning_rate": 1e-3},
            "choice": {"max_new_tokens": 4, "checkpoints": [1.0], "weight_penalties": [2.0]},
            "run": {"output": str(folder / "out"), "max_length": 128},
        }
        for name, values in changes.items():
            sections[name] = sections[name] | values
        return recipe_from(sections, source="test")

    return make


@pytest.fixture(scope="module")
def finished(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("v2")
    harden(make(folder))
    return folder


def test_the_sets_of_layers_are_those_that_mogu_probe_finds(finished: Path, base_folder: Path, record_files, tmp_path: Path) -> None:
    found = probe(Probe(str(base_folder), read_records(record_files[0]), tmp_path / "probe", folds=2, top=1))
    report = json.loads((finished / "out" / "training_report.json").read_text())
    assert [row["layers"] for row in report["candidates"]] == [list(found.choice.top), [0, 1]]
    saved = MoguModel.from_pretrained(finished / "out")
    assert saved.routed_layer_indices == report["chosen"]["layers"]
    assert report["chosen"] in report["candidates"]
    assert report["added_parameters"] == saved.added_parameters()
    folders = {path.name for path in (finished / "out-training" / "router").iterdir()}
    assert folders == {f"layers-{spans(row['layers'])}-glad-1-unwill-1-penalty-2" for row in report["candidates"]}


def test_what_is_saved_is_the_chosen_candidate(finished: Path) -> None:
    """Its routers and its backbone's LoRA, as the router stage left them, and trained: B is no longer zero."""
    saved = MoguModel.from_pretrained(finished / "out")
    layers = spans(saved.routed_layer_indices)
    folder = finished / "out-training" / "router" / f"layers-{layers}-glad-1-unwill-1-penalty-2"
    for name in ("backbone/adapter_model.safetensors", "router.safetensors"):
        assert (folder / name).read_bytes() == (finished / "out" / name).read_bytes()
    backbone = saved.injected.backbone()
    assert backbone is not None
    assert all(lora_b.count_nonzero() for _, lora_b in backbone.weights.values())
    assert "V2" in (finished / "out" / "README.md").read_text()


def test_a_finished_run_trains_and_probes_nothing_again(make: Make, finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = (finished / "out" / "backbone" / "adapter_model.safetensors").read_bytes()
    passes = [0]
    base = AutoModelForCausalLM.from_pretrained(make(finished).model.base)
    base.model.embed_tokens.register_forward_hook(lambda _, args, __: passes.__setitem__(0, passes[0] + int(args[0].shape[0] > 8)))
    with caplog.at_level("INFO", "mogu"):
        harden(make(finished), base=base)
    assert sum("is trained already" in line for line in caplog.messages) == 4
    assert passes == [0]  # the probe reads 16 prompts at a time, nothing else as many
    assert (finished / "out" / "backbone" / "adapter_model.safetensors").read_bytes() == before


def test_the_backbone_learns_at_a_rate_of_its_own(
    base_folder: Path, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's first step moves a parameter by its learning rate, whatever the gradient."""
    examples = router_examples(AutoTokenizer.from_pretrained(base_folder), records, max_length=128)
    config = MoguConfig(layers=[1], router="linear", backbone=BackboneConfig(rank=2, lora_alpha=2))
    model = MoguModel.from_base(AutoModelForCausalLM.from_pretrained(base_folder).eval(), config)
    for layer in model.routed_layers:  # responders that say something: else the routers' gradients are next to nothing
        for name in ("glad", "unwill"):
            layer.set_responder(name, torch.randn(8, layer.in_features), torch.randn(layer.out_features, 8))
    seen: dict[str, torch.Tensor] = {}
    start = InjectedLayers.start_router_training

    def watched(injected: InjectedLayers) -> None:
        start(injected)
        seen.update({name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad})

    monkeypatch.setattr(InjectedLayers, "start_router_training", watched)
    setting = StageSetting(RunSection(output=tmp_path / "out", micro_batch_size=24), config, "separate", 0)
    stage = RouterStage(learning_rate=1e-2, epochs=1, batch_size=len(examples))
    adapted = [module for module in model.modules() if isinstance(module, AdaptedLinear)]
    train_router(model, examples, stage, 1.0, setting, tmp_path / "work", title="router", backbone_rate=1e-4)
    assert len(adapted) == 7
    for layer in adapted:
        assert float(layer.up.abs().max()) == pytest.approx(1e-4, rel=1e-2)  # from zero, with a scaling of one
    vectors, _ = model.routed_layers[0].folded_router()
    first = {name: value for name, value in seen.items() if name.endswith("linear.weight")}
    moved = torch.cat([vectors[index] - first[name][0] for index, name in enumerate(sorted(first, key=lambda name: "glad" in name))])
    assert float(moved.abs().max()) == pytest.approx(1e-2, rel=1e-2)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"probe": {"top": [3], "folds": 2}}, ConfigError, "3 best layers"),
        ({"probe": {"folds": 20}}, DataError, "8 benign prompts, for 20 folds"),
        ({"backbone": {"modules": ["no_such"]}}, MoguError, "called no_such"),
        ({"backbone": {"rank": 999}}, ConfigError, "rank 999"),
    ],
)
def test_settings_that_cannot_be_used(make: Make, tmp_path: Path, changes, error, said) -> None:
    with pytest.raises(error, match=said):
        harden(make(tmp_path, **changes))
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "out-training").glob("glad"))


def test_one_set_of_all_layers_is_trained_without_a_probe(make: Make, tmp_path: Path) -> None:
    harden(make(tmp_path, probe={"top": [2]}))
    assert MoguModel.from_pretrained(tmp_path / "out").routed_layer_indices == [0, 1]
    assert not (tmp_path / "out-training" / "probe").exists()


def test_labels_that_no_layer_separates_choose_nothing(make: Make, tmp_path: Path, record_files) -> None:
    """Every prompt stands in the data under both labels."""
    train = read_records(record_files[0])
    both = [
        record.model_copy(update={"id": f"{record.id}-{label}", "label": label}) for record in train for label in ("benign", "malicious")
    ]
    records = {"train": both, "dev": read_records(record_files[1])}
    with pytest.raises(MoguError, match="No layer separates"):
        harden(make(tmp_path), records=records)
    assert not (tmp_path / "out").exists()


def test_sections_of_v2_are_no_settings_of_v1(make: Make, tmp_path: Path) -> None:
    tree = make(tmp_path).model_dump()
    with pytest.raises(ConfigError, match=r'\[backbone\] is for method = "v2"'):
        recipe_from(tree | {"method": "v1"}, source="test")
    plain = recipe_from({"method": "v1"} | {name: tree[name] for name in ("model", "data", "run")}, source="test")
    assert recipe_from(plain.model_dump(), source="a report") == plain  # what a V1 report holds can be read back


@pytest.mark.parametrize("name", ["llama-2-7b-chat", "vicuna-7b", "falcon-7b-instruct", "qwen2.5-7b-instruct"])
def test_v2_adds_at_most_half_of_what_v1_adds(name: str, record_files, tmp_path: Path) -> None:
    places = {"model.base": RECIPES / "configs" / name, "data.train": record_files[0], "data.dev": record_files[1], "run.output": tmp_path}
    settings = [f"{key}={json.dumps(str(value))}" for key, value in places.items()]
    first = plan(read_recipe(RECIPES / "v1" / f"{name}.toml", settings))
    second = plan(read_recipe(RECIPES / "v2" / f"{name}.toml", settings))
    assert second.added_parameters <= first.added_parameters / 2
    shape = json.loads((RECIPES / "configs" / name / "config.json").read_text())
    layers = shape["num_hidden_layers"]
    assert any(f"counted for {-(-layers // 4)} of {layers}" in note for note in second.notes)
    assert [stage.runs for stage in second.stages] == [2, 2, 8]
