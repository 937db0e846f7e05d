"""`mogu recipes`: what is listed can be copied, and what was copied can be used from any folder, without a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mogu.data import Record, write_records
from mogu.recipes import shipped_recipes

Mogu = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with nothing but training records, and no hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    records = [
        Record(id=f"{label}{number}", label=label, instruction=f"{verb} {number}?", affirm="Sure.", reject="I'm sorry, but no.")
        for label, verb in (("benign", "Add"), ("malicious", "Steal"))
        for number in range(6)
    ]
    (tmp_path / "data").mkdir()
    for name in ("pairs.jsonl", "pairs.dev.jsonl"):  # where shipped recipes look for them
        write_records(tmp_path / "data" / name, records)
    return tmp_path


def test_the_list_shows_every_name_whole(run_mogu: Mogu) -> None:
    code, out, _ = run_mogu("recipes", "ls")
    assert code == 0
    lines = out.splitlines()
    for recipe in shipped_recipes():
        line = next(line for line in lines if line.startswith(f"{recipe.name} "))
        assert recipe.base_model in line
        assert (recipe.template or "the tokenizer's") in line
    assert "MoGU V2" in next(line for line in lines if line.startswith("v2/vicuna-7b "))
    code, out, _ = run_mogu("recipes", "ls", "--json")
    assert code == 0
    listed = json.loads(out)
    assert [recipe["name"] for recipe in listed["recipes"]] == [recipe.name for recipe in shipped_recipes()]
    assert listed["templates"] == ["baichuan2", "dolphin", "falcon", "vicuna"]
    assert listed["accelerate"] == ["24gb", "80gb", "8x80gb"]


def test_a_name_and_its_copy_are_planned_alike_without_a_network(run_mogu: Mogu) -> None:
    code, out, _ = run_mogu("recipes", "cp", "v2/vicuna-7b")
    assert code == 0
    assert "Next: mogu train v2-vicuna-7b.toml --dry-run" in out
    code, named, err = run_mogu("train", "v2/vicuna-7b", "--dry-run", "--json")
    assert code == 0, err
    code, copied, _ = run_mogu("train", "v2-vicuna-7b.toml", "--dry-run", "--json")
    assert code == 0
    plan = json.loads(named)
    assert plan == json.loads(copied)
    assert plan["base_parameters"] == 6_738_415_616
    assert any("ships with mogu" in note for note in plan["notes"])


def test_a_revision_is_never_counted_from_what_ships(run_mogu: Mogu) -> None:
    code, _, err = run_mogu("train", "vicuna-7b", "--dry-run", "--set", "model.revision=abc")
    assert code == 2
    assert "lmsys/vicuna-7b-v1.5 was not found" in err


def test_a_copied_template_can_be_edited_and_named(run_mogu: Mogu, base: Path) -> None:
    code, out, _ = run_mogu("recipes", "cp", "templates/vicuna", "mine.jinja")
    assert code == 0
    assert '"mine.jinja"' in out
    for template in ("mine.jinja", "vicuna"):
        code, out, err = run_mogu("train", "vicuna-7b", "--dry-run", "--json", "--set", f"model.base={base}", "--chat-template", template)
        assert code == 0, err
    code, _, err = run_mogu("train", "vicuna-7b", "--dry-run", "--chat-template", "vicunja")
    assert code == 2
    assert "baichuan2, dolphin, falcon, vicuna" in err


def test_copying_twice_is_an_error(run_mogu: Mogu, elsewhere: Path) -> None:
    run_mogu("recipes", "cp", "dolphin")
    (elsewhere / "dolphin.toml").write_text("edited")
    code, _, err = run_mogu("recipes", "cp", "dolphin")
    assert code == 2
    assert "exists already" in err
    assert (elsewhere / "dolphin.toml").read_text() == "edited"
