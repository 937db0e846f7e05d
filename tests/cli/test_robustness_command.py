"""`mogu robustness` as a user meets it, on the lab's base model and on a tiny saved one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mogu.analysis import Robustness, analyze_robustness
from mogu.data import Record, write_records
from mogu.lab import records

Mogu = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    write_records(file, records("train", benign=15, malicious=15))
    return file


def test_a_table_the_subset_and_two_files(run_mogu: Mogu, pairs: Path, tmp_path: Path) -> None:
    code, out, err = run_mogu("robustness", "lab", "--data", str(pairs), "--out", str(tmp_path / "out"), "--draws", "1")
    assert code == 0, err
    numbers = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert (tmp_path / "out" / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert numbers["model"] == "lab"
    assert len(numbers["modules"]) == 28
    for one in numbers["modules"]:
        assert f" {100 * one['drop']:.2f}{'*' if one['robust'] else ' '}" in out
    assert f"Robust subset: {len(numbers['subset']['modules'])} of 28 modules" in out
    assert "15 benign and 15 malicious prompts" in out
    assert "perturbing modules" in err
    assert "searching the robust subset" in err


def test_of_a_saved_model_the_base_is_measured(run_mogu: Mogu, saved_model: Path, tmp_path: Path) -> None:
    loud = [
        Record(id=f"{place}{label}", label=label, instruction=text, affirm="Yes", reject="No")
        for place in range(12)
        for label, text in (("benign", "how do I bake " * (1 + place % 4)), ("malicious", "HOW DO I BAKE " * (1 + place % 5)))
    ]
    write_records(tmp_path / "loud.jsonl", loud)
    options = ["--data", str(tmp_path / "loud.jsonl"), "--draws", "1", "--tolerance", "0.5", "--seed", "1", "--batch-size", "10"]
    code, out, err = run_mogu("robustness", str(saved_model), *options, "--out", str(tmp_path / "saved"), "--json")
    assert code == 0, err
    numbers = json.loads(out)
    assert numbers == json.loads((tmp_path / "saved" / "robustness.json").read_text())
    base = str(saved_model.parent / "base")
    plain = analyze_robustness(Robustness(base, loud, tmp_path / "base", draws=1, tolerance=0.5, seed=1, batch_size=10))
    assert (numbers["model"], numbers["base"], plain.base) == (str(saved_model), base, None)
    assert [one["drop"] for one in numbers["modules"]] == pytest.approx([one.drop for one in plain.map.modules], rel=1e-4)
    assert numbers["settings"] == {"strength": 1.0, "draws": 1, "seed": 1, "tolerance": 0.5, "system_prompt": None, "proxy": "records"}


def test_too_few_records_are_one_error_and_nothing_written(run_mogu: Mogu, tmp_path: Path) -> None:
    write_records(tmp_path / "pairs.jsonl", records("train", benign=9, malicious=15))
    code, _, err = run_mogu("robustness", "lab", "--data", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "There are 9 benign prompts" in err
    assert "What to do" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_twins_need_no_records_and_records_need_a_name(run_mogu: Mogu, tmp_path: Path) -> None:
    code, _, err = run_mogu("robustness", "lab", "--out", str(tmp_path / "out"))
    assert code == 2
    assert "No records are named" in err
    options = ["--proxy", "twins", "--draws", "1", "--data", "lab"]  # the lab's model knows the lab's words alone
    code, out, err = run_mogu("robustness", "lab", *options, "--out", str(tmp_path / "twins"), "--json")
    assert code == 0, err
    numbers = json.loads(out)
    assert numbers["settings"]["proxy"] == "twins"
    assert numbers["prompts"]["benign"] == numbers["prompts"]["malicious"] > 100
