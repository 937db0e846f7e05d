"""`mogu probe` as a user meets it, on the lab's base model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mogu.data import write_records
from mogu.lab import records

Mogu = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    write_records(file, records("train", benign=30, malicious=30))
    return file


def test_a_table_two_lists_of_layers_and_two_files(run_mogu: Mogu, pairs: Path, tmp_path: Path) -> None:
    code, out, err = run_mogu("probe", "lab", "--data", str(pairs), "--out", str(tmp_path / "out"), "--top", "2", "--threshold", "0.9")
    assert code == 0, err
    numbers = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert numbers["model"] == "lab"
    assert f"layers = {numbers['choice']['above']}" in out
    assert f"the 2 best by it: layers = {numbers['choice']['top']}" in out
    assert "30 benign and 30 malicious prompts" in out
    assert f"{numbers['layers'][3]['mean']['auroc']['mean']:.3f}±" in out
    assert "reading prompts" in err
    _, again, _ = run_mogu("probe", "lab", "--data", str(pairs), "--out", str(tmp_path / "out"), "--by", "mean", "--json")
    assert json.loads(again)["choice"]["by"] == "mean"
    assert json.loads(again)["layers"] == numbers["layers"]


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (['{"id": "1", "label": "odd"}'], "field 'label'"),
        (['{"id": "1", "label": "benign", "instruction": "Hello", "affirm": "Hi", "reject": "No"}'], "all 1 records are benign"),
        (["not json"], "line 1"),
        ([], "is empty"),
    ],
)
def test_broken_data_is_one_error_and_nothing_written(run_mogu: Mogu, tmp_path: Path, lines: list[str], complaint: str) -> None:
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    code, _, err = run_mogu("probe", "lab", "--data", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "out"))
    assert code == 2
    assert complaint in err
    assert "What to do" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
