"""Shares against counts made by hand."""

from __future__ import annotations

import math

from inspect_ai.scorer import SampleScore, Score

from mogu.evaluation.inspect.metrics import share

LABELS = ["compliance", "partial_refusal", "full_refusal", "compliance", "full_refusal"]
KINDS = ["benign", "benign", "benign", "malicious", "malicious"]
GROUPS = ["a", "a", "b", "b", None]
SCORES = [
    SampleScore(score=Score(value=label), sample_id=number, sample_metadata={"kind": kind, "group": group})
    for number, (label, kind, group) in enumerate(zip(LABELS, KINDS, GROUPS, strict=True))
]


def test_shares_over_all_and_by_group() -> None:
    assert share("attack", ["compliance"], by=["kind", "group"])(SCORES) == {
        "attack": 2 / 5,
        "attack, samples": 5,
        "attack, kind=benign": 1 / 3,
        "attack, kind=benign, samples": 3,
        "attack, kind=malicious": 1 / 2,
        "attack, kind=malicious, samples": 2,
        "attack, group=a": 1 / 2,
        "attack, group=a, samples": 2,
        "attack, group=b": 1 / 2,
        "attack, group=b, samples": 2,
    }


def test_only_samples_of_the_named_kind_count() -> None:
    found = share("refused", ["full_refusal", "partial_refusal"], where={"kind": "benign"})(SCORES)
    assert found == {"refused": 2 / 3, "refused, samples": 3}
    assert share("refused", ["full_refusal"], where={"kind": "borderline"})(SCORES) == {}


def test_nothing_scored_is_no_share_at_all() -> None:
    found = share("attack", ["compliance"], by=["kind"])([])
    assert math.isnan(found.pop("attack"))
    assert found == {"attack, samples": 0}
