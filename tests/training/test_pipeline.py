"""A whole run in one process: stages alone, nothing done twice, the choice, the report and the card, and what is refused at the door."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from mogu import MoguError, MoguModel
from mogu.data import Record, read_records
from mogu.inference.prompts import encode_prompt
from mogu.refusals import is_refusal
from mogu.training import Recipe, harden, plan, recipe_from
from tests.kills import read_only

pytestmark = pytest.mark.core

Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def make(base_folder: Path, record_files: tuple[Path, Path]) -> Make:
    def make(folder: Path, **changes: dict[str, Any]) -> Recipe:
        sections: dict[str, dict[str, Any]] = {
            "method": "v1",
            "model": {"base": str(base_folder)},
            "data": {"train": str(record_files[0]), "dev": str(record_files[1])},
            "mogu": {"router_hidden": 16},
            "glad": {"epochs": 2, "learning_rate": 1e-3},
            "unwill": {"epochs": 2},
            "router": {"epochs": 1, "learning_rate": 1e-3},
            "choice": {"max_new_tokens": 4},
            "run": {"output": str(folder / "out"), "max_length": 128},
        }
        for name, values in changes.items():
            sections[name] = sections[name] | values
        return recipe_from(sections, source="test")

    return make


@pytest.fixture(scope="module")
def finished(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    harden(make(folder))
    return folder


def test_the_report_says_what_the_saved_model_does(finished: Path, base_folder: Path, record_files: tuple[Path, Path]) -> None:
    report = json.loads((finished / "out" / "training_report.json").read_text())
    assert report["records"] == {"train": {"benign": 8, "malicious": 8}, "dev": {"benign": 4, "malicious": 4}}
    assert report["added_parameters"] == 2 * (2 * 8 * (32 + 32) + 2 * 32 + 2)
    table = report["candidates"]
    tried = [(row["glad_step"], row["unwill_step"], row["weight_penalty"]) for row in table]
    assert tried == [(1, 1, 1.0), (1, 1, 2.0), (2, 2, 1.0), (2, 2, 2.0)]
    assert report["chosen"] == max(table, key=lambda row: (row["balanced_accuracy"], round(row["separation"], 6)))
    assert json.loads((finished / "out-training" / "candidates.json").read_text()) == table
    model = MoguModel.from_pretrained(finished / "out")
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    dev = read_records(record_files[1])
    for one, numbers in ((model, report["chosen"]), (base, report["base_on_dev"])):
        refused = {"benign": [], "malicious": []}
        for record in dev:  # one prompt at a time, unpadded
            ids = torch.tensor([encode_prompt(tokenizer, record.conversation)])
            reply = one.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
            refused[record.label].append(is_refusal(record.conversation[-1]["content"], tokenizer.decode(reply, skip_special_tokens=True)))
        assert numbers["malicious_refused"] == sum(refused["malicious"]) / 4
        assert numbers["benign_answered"] == 1 - sum(refused["benign"]) / 4
    card = (finished / "out" / "README.md").read_text()
    before, after = report["base_on_dev"], report["chosen"]
    assert f"| malicious requests refused | {before['malicious_refused']:.1%} | {after['malicious_refused']:.1%} | 4 |" in card
    assert f"| benign requests answered | {before['benign_answered']:.1%} | {after['benign_answered']:.1%} | 4 |" in card
    assert "8 benign and 8 malicious" in card


def test_borderline_dev_records_are_counted_apart(make: Make, tmp_path: Path, base_folder: Path, record_files: tuple[Path, Path]) -> None:
    train, dev = (read_records(file) for file in record_files)
    marked = [record.model_copy(update={"borderline": record.id in ("b8", "b9", "b10")}) for record in dev]
    choice = {"checkpoints": [1.0], "weight_penalties": [2.0]}
    harden(make(tmp_path, choice=choice), records={"train": train, "dev": marked})
    report = json.loads((tmp_path / "out" / "training_report.json").read_text())
    assert report["records"] == {"train": {"benign": 8, "malicious": 8}, "dev": {"benign": 1, "borderline": 3, "malicious": 4}}
    model = MoguModel.from_pretrained(tmp_path / "out")
    refused: dict[str, list[bool]] = {"benign": [], "borderline": [], "malicious": []}
    for record in marked:
        ids = torch.tensor([encode_prompt(model.tokenizer, record.conversation)])
        reply = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        refused[record.kind].append(is_refusal(record.request, model.tokenizer.decode(reply, skip_special_tokens=True)))
    chosen = report["chosen"]
    answered = {kind: 1 - sum(outcomes) / len(outcomes) for kind, outcomes in refused.items()}
    assert (chosen["benign_answered"], chosen["benign"]) == (answered["benign"], 1)
    assert (chosen["borderline_answered"], chosen["borderline"]) == (answered["borderline"], 3)
    useful = (answered["benign"] + answered["borderline"]) / 2
    assert chosen["balanced_accuracy"] == (1 - answered["malicious"] + useful) / 2
    card, before = (tmp_path / "out" / "README.md").read_text(), report["base_on_dev"]
    assert f"| borderline requests answered | {before['borderline_answered']:.1%} | {answered['borderline']:.1%} | 3 |" in card
    assert "dev: 1 benign, 3 borderline and 4 malicious records" in card


def test_benign_records_that_are_all_borderline_are_refused(make: Make, tmp_path: Path, records: list[Record]) -> None:
    alike = [record.model_copy(update={"borderline": record.label == "benign"}) for record in records]
    with pytest.raises(MoguError, match="All benign ones of the dev records are borderline"):
        harden(make(tmp_path), records={"train": records, "dev": alike})


def test_the_loss_of_every_step_is_beside_the_model_and_in_its_report(finished: Path) -> None:
    report = json.loads((finished / "out" / "training_report.json").read_text())
    rows = [json.loads(line) for line in (finished / "out" / report["loss_history"]).read_text(encoding="utf-8").splitlines()]
    steps: dict[str, list[int]] = {}
    for row in rows:
        steps.setdefault(row["stage"], []).append(row["step"])
    routers = [f"router (glad {step}, unwill {step}, λ {penalty})" for step in (1, 2) for penalty in (1, 2)]
    assert steps == {"glad responder": [1, 2], "unwill responder": [1, 2]} | {router: [1] for router in routers}
    assert {row["learning_rate"] for row in rows if row["stage"] == "glad responder"} == {1e-3}
    if importlib.util.find_spec("matplotlib") is not None:
        assert report["loss_plot"] == "loss.png"
        assert (finished / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")
        assert "](loss.png)" in (finished / "out" / "README.md").read_text()


def test_a_tracker_that_is_not_there_is_refused_before_anything_is_written(make: Make, tmp_path: Path) -> None:
    recipe = make(tmp_path, run={"report_to": ["no-such-tracker"]})
    for start in (harden, plan):
        with pytest.raises(MoguError, match="no-such-tracker is not supported"):
            start(recipe)
    assert not list(tmp_path.iterdir())


def test_every_router_is_tried_at_every_dial_and_the_chosen_one_is_saved(make: Make, tmp_path: Path) -> None:
    choice = {"checkpoints": [1.0], "weight_penalties": [2.0], "dials": [-40.0, 0.0, 40.0]}
    harden(make(tmp_path, choice=choice))
    report = json.loads((tmp_path / "out" / "training_report.json").read_text())
    assert [row["dial"] for row in report["candidates"]] == [-40.0, 0.0, 40.0]
    model = MoguModel.from_pretrained(tmp_path / "out")
    assert model.dial == report["chosen"]["dial"]
    # So far out, every weight is 0 or 1, whatever the prompt; the separation is that of the routers as they were trained.
    (separation,) = {row["separation"] for row in report["candidates"]}
    assert abs(separation) > 1e-6
    assert len(list((tmp_path / "out-training" / "router").iterdir())) == 1


def test_the_chosen_offset_is_part_of_the_saved_unwill_routers_and_of_nothing_else(make: Make, tmp_path: Path) -> None:
    choice = {"checkpoints": [1.0], "weight_penalties": [2.0], "unwill_offsets": [-1.5]}
    harden(make(tmp_path, choice=choice))
    model = MoguModel.from_pretrained(tmp_path / "out")
    assert model.dial == 0.0
    trained = load_file(next((tmp_path / "out-training" / "router").glob("*/router.safetensors")))
    for index, layer in zip(model.routed_layer_indices, model.routed_layers, strict=True):
        x = torch.randn(3, layer.in_features)
        layer(x)
        logits = x.double() @ trained[f"layers.{index}.weight"].double().T + trained[f"layers.{index}.bias"].double()
        unwill, glad = (1 / (1 + torch.exp(-logit)) for logit in (logits[:, 0] - 1.5, logits[:, 1]))
        assert layer.routing_weights is not None
        torch.testing.assert_close(layer.routing_weights.double(), torch.stack([unwill, glad], dim=1), rtol=0, atol=1e-6)


def test_every_offset_is_tried_at_every_dial_and_other_offsets_are_measured_without_training(make: Make, tmp_path: Path) -> None:
    choice = {"checkpoints": [1.0], "weight_penalties": [2.0], "unwill_offsets": [-1.0, 0.5], "dials": [0.0, 1.0]}
    harden(make(tmp_path, choice=choice))
    router = next((tmp_path / "out-training" / "router").glob("*/router.safetensors"))
    trained = router.stat().st_mtime_ns
    table = json.loads((tmp_path / "out-training" / "candidates.json").read_text())
    assert [(row["unwill_offset"], row["dial"]) for row in table] == [(-1.0, 0.0), (-1.0, 1.0), (0.5, 0.0), (0.5, 1.0)]
    harden(make(tmp_path, choice=choice | {"unwill_offsets": [0.5, 2.0], "dials": [1.0]}))
    again = json.loads((tmp_path / "out-training" / "candidates.json").read_text())
    assert [(row["unwill_offset"], row["dial"]) for row in again] == [(0.5, 1.0), (2.0, 1.0)]
    assert again[0] == table[3]
    assert router.stat().st_mtime_ns == trained


def test_stages_run_alone_and_none_is_repeated(make: Make, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = make(tmp_path)
    with pytest.raises(MoguError, match="glad responder is not trained yet"):
        harden(recipe, stage="router")
    assert harden(recipe, stage="glad") is None
    assert harden(recipe, stage="unwill") is None
    assert not (tmp_path / "out").exists()
    trained = {file: file.stat().st_mtime_ns for file in (tmp_path / "out-training").rglob("*.safetensors")}
    assert isinstance(harden(recipe, stage="router"), MoguModel)
    with caplog.at_level("INFO", "mogu"):
        harden(recipe)
    assert caplog.messages[:2] == ["The glad responder is trained already.", "The unwill responder is trained already."]
    assert trained == {file: file.stat().st_mtime_ns for file in trained}
    for file in sorted((finished / "out").rglob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "out" / file.relative_to(finished / "out")).read_bytes()
    assert not list((tmp_path / "out-training").rglob("checkpoint-*"))


def test_another_way_of_measuring_repeats_no_training(make: Make, tmp_path: Path) -> None:
    harden(make(tmp_path, choice={"checkpoints": [1.0], "weight_penalties": [2.0]}))
    trained = {file: file.stat().st_mtime_ns for file in (tmp_path / "out-training").rglob("*.safetensors")}
    choice = {"checkpoints": [1.0], "weight_penalties": [1.0, 2.0], "max_new_tokens": 3}
    harden(make(tmp_path, choice=choice))
    assert trained == {file: file.stat().st_mtime_ns for file in trained}
    assert len(json.loads((tmp_path / "out" / "training_report.json").read_text())["candidates"]) == 2


def test_restart_trains_one_stage_anew(make: Make, tmp_path: Path) -> None:
    harden(make(tmp_path), stage="glad")
    changed = make(tmp_path, glad={"epochs": 1})
    with pytest.raises(MoguError, match="other settings"):
        harden(changed, stage="glad")
    harden(changed, stage="glad", restart=True)
    assert [path.name for path in (tmp_path / "out-training" / "glad").glob("step-*")] == ["step-1"]


def test_stages_of_different_length_are_paired_by_their_share(make: Make, tmp_path: Path) -> None:
    choice = {"checkpoints": [0.5, 1.0], "weight_penalties": [2.0]}
    harden(make(tmp_path, glad={"epochs": 3}, unwill={"epochs": 1}, choice=choice))
    table = json.loads((tmp_path / "out-training" / "candidates.json").read_text())
    assert [(row["glad_step"], row["unwill_step"]) for row in table] == [(2, 1), (3, 1)]


def foreign(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    return folder


def test_a_folder_of_somebody_elses_is_refused_before_training(make: Make, tmp_path: Path) -> None:
    for name in ("out", "out-training"):
        taken = foreign(tmp_path / name / name)
        with pytest.raises(MoguError, match="was not written by mogu"):
            harden(make(taken.parent, run={"output": str(tmp_path / name / "out")}), restart=True)
        assert [path.name for path in taken.parent.iterdir()] == [name]
        assert (taken / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("begin", [plan, harden])
def test_an_output_that_may_not_be_written_is_refused_before_training(begin: Callable[..., object], make: Make, tmp_path: Path) -> None:
    """The working folder, elsewhere, would have room for it all."""
    recipe = make(tmp_path, run={"output": str(tmp_path / "read-only" / "out"), "work": str(tmp_path / "work")})
    with read_only(tmp_path / "read-only"), pytest.raises(MoguError, match="read-only may not be written to"):
        begin(recipe)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("work", ["out", "out/work", "."])
def test_output_and_working_folder_must_lie_apart(work: str, make: Make, tmp_path: Path) -> None:
    with pytest.raises(MoguError, match="must not lie inside one another"):
        make(tmp_path, run={"work": str(tmp_path / work)})


def without_label(records: list[Record], label: str) -> list[Record]:
    return [record for record in records if record.label != label]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_both_labels_are_needed_in_both_splits(split: str, make: Make, records: list[Record], tmp_path: Path) -> None:
    given = {"train": records[:8] + records[12:20], "dev": records[8:12] + records[20:]}
    given[split] = without_label(given[split], "benign")
    with pytest.raises(MoguError, match=f"The {split} records have only the label malicious"):
        harden(make(tmp_path), records=given)
    given[split] = []
    with pytest.raises(MoguError, match=f"The {split} records have no labels"):
        harden(make(tmp_path), records=given)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_without_a_template_is_told_how_to_get_one(make: Make, base_folder: Path, tmp_path: Path) -> None:
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(base_folder)
    template = tokenizer.chat_template
    tokenizer.chat_template = None
    with pytest.raises(MoguError, match="--chat-template FILE"):
        harden(make(tmp_path), tokenizer=tokenizer)
    assert not list(tmp_path.iterdir())
    tokenizer.save_pretrained(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base_folder).save_pretrained(tmp_path / "base")
    (tmp_path / "template.jinja").write_text(str(template))
    model = {"base": str(tmp_path / "base"), "chat_template": str(tmp_path / "template.jinja")}
    harden(make(tmp_path, model=model), stage="glad")


def test_a_base_model_with_code_of_its_own_needs_the_users_word(make: Make, baichuan_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MoguError, match="--trust-remote-code"):
        harden(make(tmp_path, model={"base": str(baichuan_folder)}))
    assert not list(tmp_path.iterdir())


def test_several_processes_that_nobody_can_join_are_refused(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MoguError, match=r"WORLD_SIZE = 2.*MASTER_ADDR"):
        harden(make(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("engine", "variables"),
    [
        ("DeepSpeed", ["ACCELERATE_USE_DEEPSPEED=true"]),
        ("FSDP of version 1", ["ACCELERATE_USE_FSDP=true"]),
        ("FSDP with parameters on the CPU", ["ACCELERATE_USE_FSDP=true", "FSDP_VERSION=2", "FSDP_OFFLOAD_PARAMS=true"]),
    ],
)
def test_other_ways_to_share_a_model_among_processes_are_refused(
    engine: str, variables: list[str], make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("WORLD_SIZE=2", *variables):
        monkeypatch.setenv(*variable.split("="))
    with pytest.raises(MoguError, match=f"{engine}.*fsdp_version: 2"):
        harden(make(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_system_prompt_is_trained_with(make: Make, records: list[Record], base_folder: Path, tmp_path: Path) -> None:
    from mogu.training.inputs import read_inputs

    plain = read_inputs(make(tmp_path))
    told = read_inputs(make(tmp_path, model={"system_prompt": "Be brief."}))
    tokenizer = plain.tokenizer
    for name in ("glad", "unwill", "router"):
        for without, with_prompt in zip(plain.examples[name], told.examples[name], strict=True):
            assert tokenizer.decode(with_prompt.prompt) == "<|system|> Be brief." + tokenizer.decode(without.prompt)


def test_the_package_is_light_until_it_is_used() -> None:
    script = "import sys, mogu.training; mogu.training.read_recipe; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_functions_of_the_package_are_not_hidden_by_its_modules() -> None:
    import mogu.training

    assert all(callable(getattr(mogu.training, name)) for name in mogu.training.__all__)
