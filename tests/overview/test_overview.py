"""Several runs on one page: each is found, told in a sentence, and linked to from wherever the page lies."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from mogu.errors import DataError
from mogu.hub.named_models import HARDENED_MODELS
from mogu.overview import find_runs, write_overview
from tests.finetuning.test_report_page import report as tuned

RATES = {("mogu", "all_malicious", "refused"): 0.75, ("none", "all_malicious", "refused"): 0.125, ("mogu", "all_benign", "answered"): 0.99}
COMPARISON = {
    "made": {"models": ["mogu"], "labels": {"mogu": "MoGU"}},
    "numbers": [
        {"section": "rate", "dataset": "all", "shift": None, "defense": name, "category": category, "measure": measure, "value": value}
        for (name, category, measure), value in RATES.items()
    ],
}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with a training run (the shipped model's), a fine-tuning run and a comparison."""
    folder = tmp_path / "runs"
    for name in ("a model", "tuned", "compared"):
        (folder / name).mkdir(parents=True)
    shutil.copy(HARDENED_MODELS["smollm2-safer"].folder / "training_report.json", folder / "a model")
    (folder / "a model" / "training_report.html").write_text("")
    (folder / "tuned" / "finetune_report.json").write_text(json.dumps(tuned()))
    (folder / "compared" / "results.json").write_text(json.dumps(COMPARISON))
    return folder


def test_runs_are_told_in_a_sentence_and_linked_to(runs: Path, tmp_path: Path) -> None:
    found = find_runs([runs])
    assert [(run.folder.name, run.kind.name) for run in found] == [
        ("a model", "training"),
        ("compared", "comparison"),
        ("tuned", "fine-tuning"),
    ]
    assert found[0].headline == (
        "It refuses 86.2 % of malicious dev requests, where its base model refuses 3.8 %, and answers 98.8 % of benign ones, "
        "where the base model answers 98.8 %."
    )
    assert found[1].headline == "MoGU refuses 75 % of malicious requests (12.5 % without defense) and answers 99 % of benign ones."
    assert found[2].headline.startswith(
        "The loss on held-out conversations went from 2.500 to 1.100. Direct malicious requests succeed in 25 %"
    )
    target = tmp_path / "pages" / "all.html"
    target.parent.mkdir()
    write_overview(found, target)
    html = target.read_text()
    assert re.findall(r'<a href="([^"]+)">', html) == ["../runs/a%20model/training_report.html"]
    assert "3 runs" in html
    assert "<script" not in html


def test_folders_without_runs_and_broken_results_are_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        find_runs([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no run"):
        find_runs([tmp_path / "empty"])
    (runs / "tuned" / "finetune_report.json").write_text("{}")
    with pytest.raises(DataError, match=r"finetune_report\.json is no result of a fine-tuning"):
        find_runs([runs / "tuned"])
