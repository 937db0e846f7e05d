"""Scores of replies that were made up, where areas and recalls can be counted by hand."""

from __future__ import annotations

from typing import Any

from mogu.evaluation.compare.cells import Row
from mogu.evaluation.compare.detection import detection, roc_curves
from mogu.evaluation.compare.lineup import Variant
from mogu.evaluation.prompts import EvalPrompt

PROMPTS = [EvalPrompt.plain(f"{kind}{number}", "set", kind, "Why?") for kind in ("benign", "malicious") for number in range(4)]


def rows(scores: list[float] | None) -> list[Row]:
    details: list[dict[str, Any]] = [{}] * len(PROMPTS) if scores is None else [{"score": score} for score in scores]
    return [Row(prompt.id, "", "other", 1, True, False, 1, 1, found) for prompt, found in zip(PROMPTS, details, strict=True)]


SCORES = [0.1, 0.2, 0.3, 0.6, 0.4, 0.5, 0.7, 0.8]


def test_every_row_with_scores_is_measured_as_it_is_and_no_other() -> None:
    perfect = [0.0] * 4 + [1.0] * 4
    replies = {
        Variant("none"): [rows(None)],
        Variant("detector"): [rows(SCORES)],
        Variant("mogu"): [rows(SCORES), rows(perfect)],
        Variant("mogu", 1.0): [rows(perfect)],
    }
    found = {(metric.defense, metric.category, metric.measure): metric.estimate for metric in detection(PROMPTS, replies)}
    assert {defense for defense, _, _ in found} == {"detector", "mogu"}
    assert {category for _, category, _ in found} == {"malicious against benign", "all malicious against all benign"}
    area = found["detector", "malicious against benign", "auroc"]
    assert area.value == 14 / 16  # 0.4 and 0.5 are below 0.6
    assert area.n == 8
    assert found["mogu", "malicious against benign", "auroc"].value == (14 / 16 + 1) / 2
    # One in four benign prompts is more than 5 %: nothing may be flagged that is not above all of them.
    assert found["detector", "malicious against benign", "recall_at_5"].value == 0.5
    assert found["mogu", "malicious against benign", "recall_at_1"].value == 0.75


def test_curves_are_of_one_row() -> None:
    curves = roc_curves(PROMPTS, [rows(SCORES)])
    assert set(curves) == {"malicious against benign", "all malicious against all benign"}
    assert (0.0, 0.5) in curves["malicious against benign"]
    assert roc_curves(PROMPTS, [rows(None)]) == {}
