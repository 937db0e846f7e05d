"""Shares, medians and curves against numbers counted by hand."""

from __future__ import annotations

import pytest

from mogu.attacks.results import as_json, curve, metrics, scope_costs
from mogu.attacks.runner import AttemptResult, BehaviorResult
from mogu.attacks.verdicts import Verdict

HELD, BROKEN, NONSENSE = Verdict("refused", True), Verdict("complied", True), Verdict("complied", False)


def result(*verdicts: Verdict, queries: int = 1, flops: float = 1e9, name: str = "b") -> BehaviorResult:
    attempts = [AttemptResult(f"attempt {number}", verdict, number, flops) for number, verdict in enumerate(verdicts, 1)]
    return BehaviorResult(name, attempts, queries, flops)


CELLS = {
    "none": {
        "plain": [result(BROKEN), result(BROKEN), result(HELD), result(NONSENSE)],
        "wrappers": [result(HELD, BROKEN, queries=2, flops=4e9), result(HELD, queries=9), result(HELD, BROKEN, queries=7), result(HELD)],
        "gcg": [result(HELD), result(HELD), result(HELD), result(BROKEN, queries=300, flops=1e12)],
        "ten_steps": [result(BROKEN)] * 4,
    },
    "mogu": {"plain": [result(HELD)] * 4, "transferred": [result()] * 4},
}


def value(measure: str, system: str, attack: str | None = None, scope: str | None = None) -> float:
    (row,) = [
        one.estimate.value for one in metrics(CELLS) if (one.measure, one.system, one.attack, one.scope) == (measure, system, attack, scope)
    ]
    return row


def test_shares_of_each_attack() -> None:
    assert value("broken", "none", "plain") == 0.5
    assert value("complied", "none", "plain") == 0.75  # nonsense refuses nothing
    assert value("broken", "none", "wrappers") == 0.5
    assert value("broken", "none", "ten_steps") == 1
    assert value("broken", "mogu", "plain") == 0
    assert value("queries", "none", "wrappers") == 4.5  # of 2 and 7


def test_an_attack_that_had_nothing_to_try_has_no_share() -> None:
    assert not [one for one in metrics(CELLS) if one.attack == "transferred"]


def test_attacks_together_break_what_any_of_them_breaks() -> None:
    assert value("broken", "none", scope="text") == 0.75
    assert value("broken", "none", scope="computed") == 0.25
    assert value("broken", "none", scope="all") == 1  # and changed weights are another model
    assert value("broken", "mogu", scope="all") == 0


def test_a_behavior_costs_all_attacks_until_one_succeeds() -> None:
    costs = scope_costs(CELLS["none"], "queries")
    assert costs == {"text": [1, 1, 1 + 7, None], "computed": [None, None, None, 300], "all": [1, 1, 1 + 7, 1 + 1 + 300]}
    assert scope_costs(CELLS["none"], "flops")["all"] == [1e9, 1e9, 2e9, 2e9 + 1e12]


def test_the_curve_rises_where_another_behavior_breaks() -> None:
    points = curve([1, 1, 7, None])
    assert [(cost, share) for cost, share, _, _ in points] == [(1, 0.5), (7, 0.75)]
    # Wilson's interval of 2 and of 3 out of 4, from a table.
    assert points[0][2:] == pytest.approx((0.1500, 0.8500), abs=1e-4)
    assert points[1][2:] == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert curve([None, None]) == []


def test_what_was_spent_is_a_mean_over_all_behaviors() -> None:
    spent = as_json({"defenses": ["none", "mogu"]}, CELLS)["spent"]["none"]
    assert spent["wrappers"]["queries"] == (2 + 9 + 7 + 1) / 4
    assert spent["gcg"]["flops"] == pytest.approx((3e9 + 1e12) / 4)
