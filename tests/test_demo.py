"""The demo's steps on a tiny model: hardened, asked about held-out topics, shown as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mogu.data.starter import HELD_OUT, starter_instructions
from mogu.demo import PROMPTS_OF_A_KIND, memory_note, run_demo
from mogu.errors import MoguError
from mogu.evaluation.jailbreaks import EVALUATION_WRAPPERS
from mogu.evaluation.side_by_side import SideBySide
from tests.training.conftest import save_chat_model


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> SideBySide:
    folder = tmp_path_factory.mktemp("demo")
    save_chat_model(folder / "base")
    recipe = folder / "recipe.toml"
    recipe.write_text(
        f"""
method = "v1"
[model]
base = {json.dumps(str(folder / "base"))}
[data]
train = "starter"
limit = 8
max_new_tokens = 4
[mogu]
router_hidden = 16
[glad]
epochs = 1
[unwill]
epochs = 1
[router]
epochs = 1
[choice]
checkpoints = [1.0]
weight_penalties = [2.0]
max_new_tokens = 2
batch_size = 64
[run]
output = "replaced"
max_length = 640
"""
    )
    return run_demo(folder / "safer", recipe)


def test_both_models_are_asked_about_topics_that_are_held_out(result: SideBySide) -> None:
    held_out = {topic for topic, split in HELD_OUT.items() if split == "test"}
    assert {reply.prompt.group for reply in result.mogu} <= held_out
    assert [reply.prompt for reply in result.base] == [reply.prompt for reply in result.mogu]


def test_each_kind_is_asked_plainly_and_the_malicious_and_benign_in_wrappers_of_the_evaluation(result: SideBySide) -> None:
    counts = {category: row["prompts"] for category, row in result.rates().items()}
    assert counts == dict.fromkeys(("malicious", "malicious_wrapped", "benign", "benign_wrapped", "borderline"), PROMPTS_OF_A_KIND)
    wrappers = {template.name for template in EVALUATION_WRAPPERS}
    assert {reply.prompt.wrapper for reply in result.base} - {None} <= wrappers
    texts = {instruction.text for instruction in starter_instructions("malicious", "test")}
    assert {reply.prompt.request for reply, _ in result.pairs("malicious")} <= texts


def test_a_reply_of_each_handoff_is_timed(result: SideBySide) -> None:
    assert result.overhead.base > 0
    assert set(result.overhead.mogu) == {"recompute", "continue"}


def test_too_little_memory_is_said_before_anything_is_begun() -> None:
    assert memory_note(int(4.0 * 2**30)) is None
    note = memory_note(int(2.9 * 2**30))
    assert note is not None
    assert note.startswith("2.9 GiB of memory are free")
    assert "mogu demo --lab" in note


def test_a_model_that_cannot_be_had_leads_to_the_lab(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[model]\nbase = "./missing.gguf"\n[data]\ntrain = "starter"\n[run]\noutput = "out"\n')
    with pytest.raises(MoguError, match="mogu demo --lab"):
        run_demo(tmp_path / "safer", recipe)
    assert not (tmp_path / "safer").exists()
