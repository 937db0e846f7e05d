"""Plans: every shipped recipe from the shape of its model, and the plan's numbers against others' and against what training does."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mogu import MoguConfig, MoguError, MoguModel
from mogu.data import Record, write_records
from mogu.training import plan
from mogu.training.inputs import read_inputs
from mogu.training.recipe import RouterStage
from mogu.training.search import routed_config
from mogu.training.stages import StageSetting, train_router
from tests.training.conftest import RECIPES

PARAMETERS = {  # as the hub's model pages give them
    "baichuan2-7b-chat": 7_505_973_248,
    "dolphin": 6_738_415_616,
    "falcon-7b-instruct": 6_921_720_704,
    "llama-2-7b-chat": 6_738_415_616,
    "llama-3.1-8b-instruct": 8_030_261_248,
    "qwen2.5-7b-instruct": 7_615_616_512,
    "vicuna-7b": 6_738_415_616,
}


def test_every_recipe_has_a_shape() -> None:
    shapes = {path.name for path in (RECIPES / "configs").iterdir()}
    assert {path.stem for path in RECIPES.glob("*.toml")} == shapes == PARAMETERS.keys() | {"smollm2"}


def test_the_recipe_of_smollm2_counts_its_layers_and_the_backbone(dry: Any) -> None:
    """SmolLM2-135M has 134,515,008 parameters; a decoder layer has q and o of 576 × 576, k and v of 576 × 192, three of 576 × 1,536."""
    found = plan(dry("v2/smollm2", "data.max_new_tokens=64"))
    routed = (2 * 8 + 2) * 576 + 2 * 8 * 576 + 2
    backbone = 4 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
    assert found.base_parameters == 134_515_008
    assert found.added_parameters == 15 * (routed + backbone)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_shipped_recipe_is_planned_without_a_download(name: str, dry: Any, tmp_path: Path) -> None:
    recipe = dry(f"v1/{name}")
    found = plan(recipe)
    shape = json.loads((RECIPES / "configs" / name / "config.json").read_text())
    width, layers = shape["hidden_size"], shape["num_hidden_layers"]
    lora, chain, folded = 2 * 8 * width, 2 * (512 * width + width * 512 + width + width + 1), 2 * (width + 1)
    assert found.base_parameters == PARAMETERS[name]
    assert found.base_bytes == 2 * PARAMETERS[name]
    assert found.added_parameters == layers * (2 * lora + folded)
    assert [stage.trained_parameters for stage in found.stages] == [layers * lora, layers * lora, layers * chain]
    batch = 16 if name == "vicuna-7b" else 8
    assert [stage.steps for stage in found.stages] == [10 * math.ceil(8 / batch), 10 * math.ceil(8 / batch), 10]
    assert found.stages[2].runs == (6 if name == "dolphin" else 4)
    assert found.steps == sum(stage.steps for stage in found.stages[:2]) + found.stages[2].runs * 10
    assert all(stage.memory_bytes > found.base_bytes + 16 * stage.trained_parameters for stage in found.stages)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_gate_is_planned_for_every_model_and_adds_less_than_v1(name: str, dry: Any, tmp_path: Path) -> None:
    found = plan(dry(name))
    shape = json.loads((RECIPES / "configs" / name / "config.json").read_text())
    width, layers = shape["hidden_size"], shape["num_hidden_layers"]
    unwill, gate = (
        layers * 8 * 2 * width,
        2 * (2 + 2 * 40) * width,
    )  # in two layers: two ends, and queries and values of five times eight heads
    assert found.base_parameters == PARAMETERS[name]
    assert found.added_parameters == unwill + gate < plan(dry(f"v1/{name}")).added_parameters
    assert [(stage.name, stage.trained_parameters, stage.examples) for stage in found.stages] == [("unwill", unwill, 16)]
    assert found.stages[0].memory_bytes > found.base_bytes + 16 * unwill
    assert any("the gate reads the layers" in note for note in found.notes)
    assert not list(tmp_path.iterdir())


def test_published_settings_stand_in_the_recipes(dry: Any) -> None:
    llama, vicuna = dry("v1/llama-2-7b-chat"), dry("v1/vicuna-7b")
    assert (llama.glad.learning_rate, llama.glad.batch_size, llama.glad.epochs, llama.glad.dropout) == (5e-5, 8, 10, 0.05)
    assert (vicuna.glad.learning_rate, vicuna.glad.batch_size) == (vicuna.unwill.learning_rate, vicuna.unwill.batch_size) == (4e-5, 16)
    assert (llama.router.learning_rate, llama.router.batch_size, llama.router.epochs) == (5e-4, 16, 10)
    assert 2.0 in llama.choice.weight_penalties
    assert (llama.mogu.rank, llama.mogu.lora_alpha, llama.mogu.tokens_to_route, llama.run.max_length) == (8, 16, 5, 1024)


def test_llama_2_grows_by_less_than_a_thousandth(dry: Any) -> None:
    """The published implementation adds 4.05 %: its routers are kept as chains."""
    found = plan(dry("v1/llama-2-7b-chat"))
    assert found.added_parameters == 2 * (8 * 4096 + 4096 * 8) * 32 + 262_208
    assert found.added_parameters / found.base_parameters < 0.001
    assert found.stages[2].trained_parameters == 268_959_808
    published = 2 * (8 * 4096 + 4096 * 8) * 32 + found.stages[2].trained_parameters
    assert published / found.base_parameters == pytest.approx(0.0405, abs=5e-5)


@pytest.mark.parametrize(
    ("template", "ending"),
    [
        ("vicuna", " USER: Why is the sky blue? ASSISTANT:"),
        ("falcon", "User: Why is the sky blue?\n\nAssistant:"),
        ("dolphin", "<s>USER: Why is the sky blue?\nASSISTANT:"),
        ("baichuan2", "<reserved_106>Why is the sky blue?<reserved_107>"),
    ],
)
def test_shipped_templates_write_the_models_usual_prompt(template: str, ending: str, base_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    tokenizer.chat_template = (RECIPES / "templates" / f"{template}.jinja").read_text()
    asked = [{"role": "user", "content": "Why is the sky blue?"}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert prompt.endswith(ending)
    whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": "It scatters."}], tokenize=False)
    assert whole.startswith(prompt)
    assert whole[len(prompt) :].strip() == "It scatters.</s>"
    assert "Be kind." in tokenizer.apply_chat_template([{"role": "system", "content": "Be kind."}, *asked], tokenize=False)


def test_an_answer_marker_reaches_the_model_or_is_refused_before_training(dry: Any, base_folder: Path) -> None:
    base = f"model.base={str(base_folder)!r}"
    recipe = dry("v1/llama-2-7b-chat", base, 'mogu.answer_marker="<|user|>"')
    inputs = read_inputs(recipe)
    assert routed_config(recipe, inputs.tokenizer).answer_marker == "<|user|>"
    with pytest.raises(MoguError, match="not always the same tokens"):
        read_inputs(dry("v1/llama-2-7b-chat", base, 'mogu.answer_marker="the"'))


def test_known_lengths_take_the_place_of_max_length(dry: Any, base_folder: Path) -> None:
    assumed, known = plan(dry("v1/llama-2-7b-chat")), plan(dry("v1/llama-2-7b-chat", f"model.base={str(base_folder)!r}"))
    assert any("no tokenizer was found" in note for note in assumed.notes)
    assert known.notes == ()
    assert known.memory_bytes < known.base_bytes + 16 * max(stage.trained_parameters for stage in known.stages) + 20 * 2**20


def test_planned_steps_and_parameters_are_those_of_training(
    dry: Any, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dry(
        "v1/llama-2-7b-chat", f"model.base={str(base_folder)!r}", "model.dtype=float32", "router.epochs=1.5", "router.batch_size=6"
    )
    stage = plan(recipe).stages[2]
    steps, trained = [], set()
    step = torch.optim.AdamW.step

    def counted(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        trained.add(sum(one.numel() for group in self.param_groups for one in group["params"]))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    model = MoguModel.from_base(AutoModelForCausalLM.from_pretrained(base_folder))
    setting = StageSetting(recipe.run, model.mogu_config, "shared", 0)
    train_router(model, read_inputs(recipe).examples["router"], recipe.router, 2.0, setting, tmp_path / "work", title="router")
    assert isinstance(recipe.router, RouterStage)
    assert len(steps) == stage.steps == math.ceil(1.5 * math.ceil(16 / 6))
    assert trained == {stage.trained_parameters}


@pytest.mark.parametrize("layers", [[1], [0, 1]])
def test_planned_disk_is_near_what_training_takes(
    layers: list[int], dry: Any, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [f"model.base={str(base_folder)!r}", "model.dtype=float32", f"mogu.layers={layers}", "run.save_steps=1", "router.epochs=2"]
    recipe = dry("v1/llama-2-7b-chat", *settings)
    planned = plan(recipe).stages[2].disk_bytes
    seen = []
    written = os.replace

    def weighed(source: Any, target: Any) -> None:
        written_here = [file for file in (tmp_path / "work").rglob("*") if file.is_file()]
        seen.append(sum(file.stat().st_size for file in written_here))
        written(source, target)

    monkeypatch.setattr(os, "replace", weighed)
    model = MoguModel.from_base(AutoModelForCausalLM.from_pretrained(base_folder), MoguConfig(layers=layers))
    setting = StageSetting(recipe.run, model.mogu_config, "separate", 0)
    train_router(model, read_inputs(recipe).examples["router"], recipe.router, 2.0, setting, tmp_path / "work", title="router")
    assert max(seen) == pytest.approx(planned, rel=0.05)  # names and random states come on top
    assert plan(dry("v1/llama-2-7b-chat", *settings, "run.cache_activations=false")).stages[2].disk_bytes == 24 * 2 * len(layers) * (
        512 * 32 + 32 * 512 + 32 + 32 + 1
    )


def test_what_is_wrong_is_said_by_a_dry_run_too(dry: Any, tmp_path: Path, records: list[Record]) -> None:
    def refused(match: str, *settings: str) -> None:
        with pytest.raises(MoguError, match=match):
            plan(dry("v1/llama-2-7b-chat", *settings))

    refused("no file nowhere.jsonl", "data.train=nowhere.jsonl")
    write_records(tmp_path / "benign.jsonl", records[:12])
    refused("benign", f"data.train={str(tmp_path / 'benign.jsonl')!r}")
    refused("template", "model.chat_template=nowhere.jinja")
    refused("layers .*32", "mogu.layers=[3, 32]")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("years of work")
    refused("was not written by mogu", f"run.output={str(tmp_path / 'taken')!r}")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text(json.dumps({"model_type": "novel", "auto_map": {"AutoConfig": "novel.Novel"}}))
    refused("--trust-remote-code", f"model.base={str(tmp_path / 'own')!r}")
    (tmp_path / "own" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    refused("'bert'|causal", f"model.base={str(tmp_path / 'own')!r}")
