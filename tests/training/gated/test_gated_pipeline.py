"""A whole run of the method gated: stages alone, nothing done twice, thresholds, the saved model, and what is refused at the door."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from mogu import MoguError, MoguModel
from mogu.data import read_records
from mogu.inference.prompts import encode_prompt
from mogu.modeling.gated.model import GatedModel
from mogu.training import DevMetrics, Recipe, harden, plan, recipe_from, refused_on_dev
from mogu.training.gated.prompts import gate_prompts
from mogu.training.gated.reading import read_answers
from mogu.training.gated.recovery import BEGUN
from mogu.training.gated.stream import alarms
from mogu.training.inputs import read_inputs

pytestmark = pytest.mark.core

ASKED = ["How do I clean the kettle?", "How do I secretly take my neighbor's garden?"]


@pytest.fixture(scope="module")
def make(base_folder: Path, record_files: tuple[Path, Path]) -> Any:
    def make(folder: Path, **changes: dict[str, Any]) -> Recipe:
        sections: dict[str, Any] = {
            "method": "gated",
            "model": {"base": str(base_folder)},
            "data": {"train": str(record_files[0]), "dev": str(record_files[1])},
            "gate": {"false_alarms": [0.0, 0.2], "second_opinions": 0.5},
            "unwill": {"epochs": 2, "learning_rate": 5e-3},
            "careful": {"epochs": 1, "learning_rate": 1e-3, "rank": 2},
            "choice": {"max_new_tokens": 4},
            "run": {"output": str(folder / "out"), "max_length": 200},
        }
        for name, values in changes.items():
            sections[name] = sections[name] | values
        return recipe_from(sections, source="test")

    return make


@pytest.fixture(scope="module")
def finished(make: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gated")
    assert harden(make(folder), stage="gate") is None
    assert harden(make(folder), stage="unwill") is None
    assert not (folder / "out").exists()
    model = harden(make(folder))
    assert isinstance(model, GatedModel)
    (folder / "scores.json").write_text(json.dumps(model.score(ASKED).tolist()))
    return folder


def test_what_was_promised_is_what_was_made(make: Any, finished: Path, tmp_path: Path) -> None:
    promised = plan(make(tmp_path))
    report = json.loads((finished / "out" / "training_report.json").read_text())
    assert promised.added_parameters == report["added_parameters"]
    assert [(stage.name, stage.examples) for stage in promised.stages] == [("unwill", 16), ("careful", 16)]
    steps = {}
    for line in (finished / "out" / "loss_history.jsonl").read_text().splitlines():
        row = json.loads(line)
        steps[row["stage"]] = row["step"]
    assert list(steps.values()) == [stage.steps for stage in promised.stages]


def test_the_saved_model_says_what_the_gate_says(finished: Path) -> None:
    model = MoguModel.from_pretrained(finished / "out")
    assert isinstance(model, GatedModel)
    dev = json.loads((finished / "out-training" / "gate" / "dev.json").read_text())
    config = model.gate_config
    benign = [probability for probability, kind in zip(dev["probabilities"], dev["kinds"], strict=True) if kind != "malicious"]
    report = json.loads((finished / "out" / "training_report.json").read_text())
    allowed = report["chosen"]["false_alarms"]
    assert sum(probability >= config.refuse for probability in benign) <= allowed * len(benign)
    assert sum(probability >= config.careful for probability in benign) <= 0.5 * len(benign)
    assert report["chosen"]["refuse"] == config.refuse
    assert len(report["candidates"]) == 2
    assert model.score(ASKED).tolist() == json.loads((finished / "scores.json").read_text())
    assert sorted(path.name for path in (finished / "out").iterdir() if path.is_dir()) == ["careful", "unwill"]


def test_what_is_reported_of_the_dev_records_is_what_the_saved_model_does_with_them(make: Any, finished: Path) -> None:
    """The table comes from what each answers on its own; here the whole model answers, thresholds and all."""
    recipe, model = make(finished), MoguModel.from_pretrained(finished / "out")
    report = json.loads((finished / "out" / "training_report.json").read_text())
    records = read_records(Path(str(recipe.data.dev)))
    for who, told in ((model, report["chosen"]), (model.base_model, report["base_on_dev"])):
        with model.routing("on" if who is model else "off"):
            refused = refused_on_dev(who, model.tokenizer, records, max_new_tokens=4, batch_size=5)
        assert DevMetrics.of(records, refused).as_json().items() <= told.items()


def test_nothing_is_done_twice(make: Any, finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="mogu.training")
    weights = (finished / "out" / "unwill" / "adapter_model.safetensors").read_bytes()
    assert isinstance(harden(make(finished)), GatedModel)
    said = caplog.text
    assert all(f"The {part} is {how} already." in said for part, how in (("gate", "fitted"), ("unwill responder", "trained")))
    assert (finished / "out" / "unwill" / "adapter_model.safetensors").read_bytes() == weights


def test_a_gate_alone_needs_no_careful_responder(make: Any, tmp_path: Path) -> None:
    model = harden(make(tmp_path, gate={"second_opinions": 0.0, "taps": [1]}, careful={"epochs": 10, "learning_rate": 5e-5, "rank": 1}))
    assert isinstance(model, GatedModel)
    assert model.mogu_config.responders == ("unwill",)
    assert model.gate is not None
    assert model.gate.taps == (1,)
    assert (tmp_path / "out" / "unwill").is_dir()
    assert not (tmp_path / "out" / "careful").exists()


def test_an_ear_is_fitted_to_answers_and_takes_back_no_more_benign_ones_than_allowed(make: Any, tmp_path: Path) -> None:
    recipe = make(tmp_path, gate={"second_opinions": 0.0, "listen": 0.2, "false_alarms": [0.0]})
    promised = plan(recipe)
    assert harden(recipe, stage="gate") is None
    assert harden(recipe, stage="listen") is None
    model = harden(recipe)
    assert isinstance(model, GatedModel)
    report = json.loads((tmp_path / "out" / "training_report.json").read_text())
    assert promised.added_parameters == report["added_parameters"] == model.added_parameters()
    loaded = MoguModel.from_pretrained(tmp_path / "out")
    assert isinstance(loaded, GatedModel)
    assert loaded.stream is not None
    assert model.stream is not None
    assert loaded.gate_config.listen == model.gate_config.listen
    assert all(torch.equal(loaded.stream.vectors[tap], model.stream.vectors[tap]) for tap in model.stream.vectors)
    # What the report says is what the whole model does, ear and all.
    records = read_records(Path(str(recipe.data.dev)))
    refused = refused_on_dev(loaded, loaded.tokenizer, records, max_new_tokens=4, batch_size=5)
    assert DevMetrics.of(records, refused).as_json().items() <= report["chosen"].items()
    prompts = [one for one in gate_prompts(recipe, records, "dev") if not one.malicious]
    ids = [encode_prompt(loaded.tokenizer, one.prompt) for one in prompts]
    states = read_answers(loaded.base_model, loaded.tokenizer, ids, taps=sorted(loaded.stream.vectors), max_new_tokens=32, batch_size=4)
    logits = torch.cat([loaded.prompt_logits(torch.tensor([row])) for row in ids])
    rung = alarms(loaded.stream, states, logits)
    assert float((rung >= float(loaded.gate_config.listen or 0)).float().mean()) <= 0.2


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"gate": {"listen": 1.0}}, "listen"),
        ({"gate": {"false_alarms": []}}, "false_alarms"),
        ({"gate": {"refusals": [" "]}}, "refusals"),
        ({"gate": {"l2": -1}}, "l2"),
    ],
)
def test_bad_settings_are_refused(make: Any, tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(MoguError, match=what):
        make(tmp_path, **changes)


def test_sections_and_stages_of_other_methods_are_refused(make: Any, tmp_path: Path) -> None:
    recipe = make(tmp_path)
    tree = recipe.model_dump(mode="json", exclude_defaults=True)
    with pytest.raises(MoguError, match=r"\[router\] is for method"):
        recipe_from(tree | {"router": {"epochs": 2}}, source="test")
    with pytest.raises(MoguError, match=r"\[gate\] is for method"):
        recipe_from(tree | {"method": "v1"}, source="test")
    with pytest.raises(MoguError, match="no stage router"):
        harden(recipe, stage="router")


def test_a_layer_that_is_not_there_cannot_be_tapped(make: Any, tmp_path: Path) -> None:
    with pytest.raises(MoguError, match="layer 7"):
        harden(make(tmp_path, gate={"taps": [7]}))


def test_half_of_the_refusing_examples_turn_round_in_the_midst_of_an_answer(make: Any, tmp_path: Path) -> None:
    inputs = read_inputs(make(tmp_path))
    tokenizer = inputs.tokenizer
    begun = 0
    for example in inputs.examples["unwill"]:
        assert tokenizer.decode(example.answers[0], skip_special_tokens=True).strip() == "I'm sorry, but I can't help with that."
        assert example.answers[0][-1] == tokenizer.eos_token_id or tokenizer.decode(example.answers[0]).endswith("</s>\n")
        begun += not tokenizer.decode(example.prompt).endswith("<|assistant|>")
    assert 0 < begun / len(inputs.examples["unwill"]) < 2 * BEGUN


def test_the_starter_set_gives_a_gate_more_prompts_than_records(make: Any, tmp_path: Path) -> None:
    recipe = make(tmp_path, data={"train": "starter", "dev": "starter"})
    prompts = gate_prompts(recipe, [], "train")
    dev = gate_prompts(recipe, [], "dev")
    assert len([prompt for prompt in prompts if prompt.form == "plain"]) == 2788 + 4142 + 1800
    assert len(dev) == 2 * (324 + 549 + 320)
    texts = [{str(prompt.prompt) for prompt in split} for split in (prompts, dev)]
    assert not texts[0] & texts[1]
    forms = Counter((prompt.kind, prompt.form) for prompt in prompts)
    for kind, varied, joined in (("malicious", 1.0, 0.6), ("borderline", 0.5, 0.25), ("benign", 0.5, 0.5)):
        assert forms[kind, "varied"] / forms[kind, "plain"] == pytest.approx(varied, abs=0.03)
        assert forms[kind, "joined"] / forms[kind, "plain"] == pytest.approx(joined, abs=0.03)
    assert {prompt.form for prompt in dev} == {"plain", "varied"}
