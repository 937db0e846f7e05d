"""The page of a training run: the result in its first sentence, all candidates with the chosen one marked, a curve a stage, offline."""

from __future__ import annotations

import re
from typing import Any

from mogu.training.dev_examples import DevExample
from mogu.training.report_page import page

HOSTILE = "<script>window.hacked = 1</script>"


def report(candidates: list[dict[str, Any]], chosen: int) -> dict[str, Any]:
    counts = {"malicious": 80, "benign": 60}
    base = {"malicious_refused": 0.0375, "benign_answered": 1.0, **counts}
    rows = [{**row, **counts} for row in candidates]
    return {
        "recipe": {"method": "v1", "model": {"base": HOSTILE, "revision": None}, "choice": {"dials": [0.0, 0.5]}},
        "records": {"train": {"benign": 150, "malicious": 250}, "dev": {"benign": 60, "malicious": 80}},
        "added_parameters": 232_704,
        "base_on_dev": base,
        "candidates": rows,
        "chosen": rows[chosen],
        "seconds": {"glad": 62.5, "router": 0.25},
        "versions": {"mogu": "0.1.0", "torch": "2.13"},
    }


def candidate(dial: float, refused: float, answered: float) -> dict[str, Any]:
    return {"glad_step": 8, "weight_penalty": 2.0, "dial": dial, "malicious_refused": refused, "benign_answered": answered}


LOSSES = [{"stage": f"{stage}", "step": step, "loss": 3.0 / step} for stage in ("glad", "router, λ 1", "router, λ 2") for step in (1, 2, 3)]


def test_the_result_stands_in_the_first_sentence_and_the_chosen_candidate_is_marked() -> None:
    html = page(report([candidate(0.0, 0.7, 0.95), candidate(0.5, 0.8625, 0.9)], 1), LOSSES, model="safer")
    text = " ".join(re.sub(r"<[^>]+>", "", html[html.index("<header>") :]).split())
    assert "refuses 86.2 % of malicious dev requests" in text
    assert "refuses 3.8 %" in text
    assert "answers 90 % of benign ones" in text
    rows = re.findall(r"<tr( class=\"mogu\")?><th>(\d)", html)
    assert rows == [("", "1"), (' class="mogu"', "2")]
    assert "232,704 parameters" in html
    assert html.count("<svg viewBox") >= 3  # the candidates, and a panel for glad and for the routers
    assert "router, λ 2" in html


def test_it_runs_and_fetches_nothing() -> None:
    html = page(report([candidate(0.0, 0.7, 0.95)], 0), [], model=HOSTILE)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["data:,"]
    assert '<section id="losses">' not in html
    assert "There was one candidate." in html


def test_examples_show_what_both_models_say_and_hide_what_gives_in() -> None:
    examples = [DevExample("malicious", "Pick a lock.", None, "I can't help with that."), DevExample("benign", HOSTILE, "Yes.", "No.")]
    html = page(report([candidate(0.0, 0.7, 0.95)], 0), [], model="safer", examples=examples)
    rows = re.findall(r"<tr><th>(.*?)</th><td>(.*?)</td><td>(.*?)</td>", html[html.index('id="examples"') :])
    assert rows == [
        ("Pick a lock.<small>malicious</small>", "<i>gives in</i>", "I can&#39;t help with that."),
        ("&lt;script&gt;window.hacked = 1&lt;/script&gt;<small>benign</small>", "Yes.", "No."),
    ]
    assert 'id="examples"' not in page(report([candidate(0.0, 0.7, 0.95)], 0), [], model="safer")
