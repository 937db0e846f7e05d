"""The page of a fine-tuning run: what it did to the task and to safety in the first sentence, every strategy in the table, offline."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mogu.finetuning.report_page import page

HOSTILE = "<script>window.hacked = 1</script>"


def report(*, safety: bool = True) -> dict[str, Any]:
    def rows(loss: float, attacks: float) -> dict[str, Any]:
        shares = {"direct attack success": attacks, "jailbroken attack success": attacks, "benign refusals": 0.05}
        unmeasured = dict.fromkeys(shares)
        return {"task loss": loss, "task token accuracy": 0.5, "task exact match": None, **(shares if safety else unmeasured)}

    tried = [{"name": "data-mix 0.1", **rows(1.1, 0.25), "task accuracy": 0.5}, {"name": HOSTILE, **rows(1.05, 0.5), "task accuracy": 0.5}]
    return {
        "recipe": {"model": {"base": "someone/base"}, "safety": {"method": "data-mix"}, "tune": {"method": "lora", "rank": 8}},
        "before": {**rows(2.5, 0.125), "task accuracy": 0.25},
        "after": {**rows(1.1, 0.25), "task accuracy": 0.5},
        "tried": tried,
        "chosen": tried[0],
        "kept_in_step": [],
        "rule": "the best",
        "conversations": {"train": 1200, "dev": 80},
        "trained_parameters": 1_234_567,
        "seconds": {"data-mix 0.1": 61.0},
        "versions": {"mogu": "0.1.0"},
    }


LOSSES = [{"stage": "data-mix 0.1", "step": step, "loss": 2.0 / step} for step in (1, 2, 3)]


@pytest.mark.parametrize("safety", [True, False])
def test_the_page_says_what_tuning_did_and_runs_nothing(safety: bool) -> None:
    html = page(report(safety=safety), LOSSES, model="tuned")
    text = " ".join(re.sub(r"<[^>]+>", "", html[html.index("<header>") :]).split())
    assert "went from 2.500 to 1.100." in text
    assert ("succeed in 25 % of cases, where they succeeded in 12.5 % before" in text) == safety
    assert "1,234,567 parameters were tuned" in text
    assert "train 1,200, dev 80" in text
    assert '<section id="losses">' in html
    assert "<script" not in html
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["data:,"]
