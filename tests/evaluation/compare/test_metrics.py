"""Metrics of replies and costs that were made up, where each value can be checked by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mogu.evaluation.compare.cells import Row
from mogu.evaluation.compare.costs import SystemCost
from mogu.evaluation.compare.lineup import Variant
from mogu.evaluation.compare.metrics import cost_metrics, frontier, judged_means, rates, routing_weights
from mogu.evaluation.intervals import wilson
from mogu.evaluation.prompts import EvalPrompt
from mogu.lab import prompts as prompts_of_lab


def lab_prompts() -> list[EvalPrompt]:
    """Two benign and two malicious prompts."""
    every = prompts_of_lab("test")
    return [prompt for category in ("benign", "malicious") for prompt in [one for one in every if one.category == category][:2]]


def row(outcome: str, **details: Any) -> Row:
    return Row("id", "text", outcome, 1, True, False, 1.0, 1.0, details)  # type: ignore[arg-type]


def test_rates_and_differences_of_replies_made_by_hand() -> None:
    prompts = lab_prompts()
    assert [prompt.category for prompt in prompts] == ["benign", "benign", "malicious", "malicious"]
    replies = {
        Variant("none"): [[row("answered"), row("other"), row("complied"), row("complied")]],
        Variant("sft"): [[row("answered"), row("refused"), row("refused"), row("complied")]],
        Variant("mogu"): [[row("answered"), row("answered"), row("refused"), row("refused")]],
        Variant("mogu_v2"): [[row("refused"), row("answered"), row("refused"), row("refused")]],
    }
    metrics = list(rates(prompts, replies, ["mogu", "mogu_v2"]))
    found = {(metric.section, metric.defense, metric.category, metric.measure): metric.estimate for metric in metrics}
    assert found["rate", "mogu", "malicious", "refused"].value == 1.0
    assert (found["rate", "sft", "benign", "refused"].low, found["rate", "sft", "benign", "refused"].high) == wilson(0.5, 2)
    assert found["difference", "sft", "malicious", "refused"].value == 0.5
    assert found["difference", "mogu", "all_benign", "answered"].value == 0.5
    assert frontier(metrics) == ["mogu"]
    assert ("difference", "none", "benign", "answered") not in found
    assert found["model", "mogu_v2", "benign", "answered"].value == -0.5
    assert found["model", "mogu_v2", "malicious", "refused"].value == 0.0
    assert {defense for section, defense, _, _ in found if section == "model"} == {"mogu_v2"}


def test_routing_weights_of_replies_made_by_hand() -> None:
    prompts = lab_prompts()
    weights = [([0.1, 0.2], [0.9, 0.8], 0.2), ([0.3, 0.2], [0.7, 0.8], 0.4), ([0.9, 0.6], [0.1, 0.4], 0.3), ([0.7, 0.8], [0.3, 0.2], 0.9)]
    seeds = [[row("other", unwill=unwill, glad=glad, score=score) for unwill, glad, score in weights]]
    found = {
        (metric.category, metric.measure, metric.layer): metric.estimate.value for metric in routing_weights(prompts, seeds, [1, 2], "mogu")
    }
    assert found["benign", "unwill_weight", 1] == pytest.approx(0.2)
    assert found["malicious", "glad_weight", 2] == pytest.approx(0.3)
    assert found["benign", "unwill_spread", 1] == pytest.approx(0.1)


def test_added_latency_is_paired_by_round() -> None:
    # A machine that gets slower makes both defenses slower: the ratio of each round is 1.5 all the same.
    plain = SystemCost("none", [[1.0, 2.0, 4.0], [1.0, 3.0, 9.0]], [1, 1], [1, 1], 100, None)
    other = SystemCost("icd", [[1.5, 3.0, 6.0], [1.5, 4.5, 13.5]], [2, 2], [5, 7], 100, None)
    found = {(metric.defense, metric.measure): metric.estimate for metric in cost_metrics([plain, other])}
    assert found["icd", "added_latency"].value == pytest.approx(0.5)
    assert found["icd", "seconds"].value == 3.75
    assert (found["icd", "tokens"].value, found["icd", "passes"].value) == (6, 2)
    assert ("icd", "peak_bytes") not in found
    first = SystemCost("mogu", [[2.0, 4.0, 8.0], [2.0, 6.0, 18.0]], [1, 1], [1, 1], 100, None, 5000)
    second = SystemCost("mogu_v2", [[1.5, 3.0, 6.0], [1.5, 4.5, 13.5]], [1, 1], [1, 1], 100, None, 2000)
    rows = {
        (metric.section, metric.defense, metric.measure): metric.estimate.value
        for metric in cost_metrics([plain, first, second], ["mogu", "mogu_v2"])
    }
    assert rows["model", "mogu_v2", "added_latency"] == pytest.approx(-0.25)
    assert rows["cost", "mogu_v2", "added_parameters"] == 2000


def test_a_judges_numbers_are_means_over_what_it_scored() -> None:
    prompts = lab_prompts()
    judged: list[dict[str, float]] = [
        {"clarity": 4, "unscored": 0},
        {"unscored": 1},
        {"harmfulness": 1, "unscored": 0},
        {"harmfulness": 4, "unscored": 0},
    ]
    replies = {Variant("none"): [[replace(row("other"), judged=numbers) for numbers in judged]]}
    found = {(metric.category, metric.measure): metric.estimate for metric in judged_means(prompts, replies)}
    assert (found["benign", "clarity"].value, found["benign", "clarity"].n) == (4.0, 1)
    assert found["benign", "unscored"].value == 0.5
    assert found["malicious", "harmfulness"].value == 2.5
    assert ("malicious", "clarity") not in found
