"""`data.train = "starter"`: a run on the starter set, answered by its own base model once, and on nothing that is held out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mogu import MoguError
from mogu.data import read_records, write_records
from mogu.data.starter import HELD_OUT, SPLITS, dev_pairs, starter_instructions
from mogu.errors import ConfigError
from mogu.inference.prompts import encode_prompt
from mogu.training import Recipe, harden, plan, recipe_from
from mogu.training.inputs import load_records
from tests.training.conftest import make_records, save_chat_model

TOPIC_OF = {
    one.id: one.topic for kind in ("benign", "borderline", "malicious") for split in SPLITS for one in starter_instructions(kind, split)
}
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def roomy_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random chat model whose positions suffice for a wrapped instruction in letters."""
    folder = tmp_path_factory.mktemp("roomy")
    save_chat_model(folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def make(roomy_base: Path) -> Make:
    def make(folder: Path, **changes: dict[str, Any]) -> Recipe:
        stage = {"epochs": 1}
        sections: dict[str, dict[str, Any]] = {
            "method": "v1",
            "model": {"base": str(roomy_base), "system_prompt": "Be kind."},
            "data": {"train": "starter", "limit": 6, "max_new_tokens": 12},
            "mogu": {"router_hidden": 16},
            "glad": stage,
            "unwill": stage,
            "router": stage,
            "choice": {"checkpoints": [1.0], "weight_penalties": [2.0], "max_new_tokens": 2},
            "run": {"output": str(folder / "out"), "max_length": 512},
        }
        for name, values in changes.items():
            sections[name] = sections[name] | values
        return recipe_from(sections, source="test")

    return make


@pytest.fixture(scope="module")
def finished(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starter")
    harden(make(folder))
    return folder


def test_a_run_learns_from_its_base_models_own_answers_and_from_no_held_out_topic(finished: Path, roomy_base: Path) -> None:
    report = json.loads((finished / "out" / "training_report.json").read_text())
    assert report["records"] == {
        "train": {"benign": 4, "borderline": 2, "malicious": 6},
        "dev": {"benign": 12, "borderline": 12, "malicious": 12},
    }
    assert report["recipe"]["data"]["train"] == "starter"
    assert report["chosen"]["borderline"] == 12
    records = {split: read_records(finished / "out-training" / "starter" / f"{split}.jsonl") for split in ("train", "dev")}
    assert {TOPIC_OF[record.source or record.id] for record in records["train"]}.isdisjoint(HELD_OUT)
    assert {HELD_OUT[TOPIC_OF[record.source or record.id]] for record in records["dev"]} == {"dev"}
    assert records["dev"] == dev_pairs(limit=6)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(roomy_base), AutoTokenizer.from_pretrained(roomy_base)
    answered = [record for record in records["train"] if record.label == "benign"]
    bare = [record for record in answered if record.wrapper is None]
    assert len(bare) == 3
    for record in bare:  # one prompt at a time, unpadded
        prompt = [{"role": "system", "content": "Be kind."}, *record.conversation]
        ids = torch.tensor([encode_prompt(tokenizer, prompt)])
        reply = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        said = tokenizer.decode(reply, skip_special_tokens=True).strip()
        assert record.affirm
        assert said.startswith(record.affirm)  # cut at its last whole sentence, if it has one


def test_the_answers_are_made_once_and_anew_for_other_settings_or_a_changed_file(finished: Path, make: Make) -> None:
    file = finished / "out-training" / "starter" / "train.jsonl"
    made = file.stat().st_mtime_ns
    harden(make(finished, choice={"max_new_tokens": 1}))
    assert file.stat().st_mtime_ns == made
    before = file.read_bytes()
    file.write_bytes(before.replace(b"benign", b"Benign"))
    harden(make(finished))
    assert file.read_bytes() == before
    with pytest.raises(ConfigError, match="other settings or other data"):
        harden(make(finished, data={"max_new_tokens": 3}))
    assert file.read_bytes() != before
    harden(make(finished))
    assert file.read_bytes() == before


def test_the_refusals_of_the_recipe_are_learned(make: Make, tmp_path: Path) -> None:
    recipe = make(tmp_path, data={"refusals": ["I don't do that."]})
    assert {record.reject for record in load_records(recipe)["train"]} == {"I don't do that."}
    for wrong in ([], [" "]):
        with pytest.raises(ConfigError, match="refusals"):
            make(tmp_path, data={"refusals": wrong})


def test_a_plan_takes_answers_of_the_greatest_length_and_writes_nothing(make: Make, tmp_path: Path, finished: Path) -> None:
    recipe = make(tmp_path)
    planned = plan(recipe)
    assert [stage.examples for stage in planned.stages] == [6, 6, 12]
    assert planned.dev_records == 36
    assert "12 words long" in planned.notes[0]
    assert not list(tmp_path.iterdir())
    answers = [record.affirm for record in load_records(recipe)["train"] if record.label == "benign"]
    assert {len(answer.split()) for answer in answers} == {12}


def test_dev_records_of_ones_own_take_the_place_of_the_held_out_topics_and_the_other_way_round(make: Make, tmp_path: Path) -> None:
    write_records(tmp_path / "own.jsonl", make_records(2))
    records = load_records(make(tmp_path, data={"dev": str(tmp_path / "own.jsonl")}))
    assert records["dev"] == make_records(2)
    assert len(records["train"]) == 12
    other = load_records(
        recipe_from({**make(tmp_path).model_dump(), "data": {"train": str(tmp_path / "own.jsonl"), "dev": "starter"}}, source="")
    )
    assert other == {"train": make_records(2), "dev": dev_pairs()}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"train": "starter", "dev_share": 0.2}, "dev_share has no effect here"),
        ({"train": "own.jsonl", "augment": 0.2}, "augment has no effect here"),
        ({"train": "own.jsonl", "refusals": ["No."]}, "refusals has no effect here"),
        ({"train": "starter", "augment": 1.2}, "augment"),
        ({"train": "starter", "limit": 1}, "limit"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(make: Make, tmp_path: Path, data: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        recipe_from({**make(tmp_path).model_dump(), "data": data}, source="test")


def test_a_prompt_that_is_too_long_is_refused_before_the_model_answers_anything(make: Make, tmp_path: Path) -> None:
    with pytest.raises(MoguError, match="fewer than max_length = 64"):
        harden(make(tmp_path, run={"max_length": 64}))
    assert not list(tmp_path.iterdir())
