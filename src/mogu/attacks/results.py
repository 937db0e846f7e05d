"""What an attack report says: how many behaviors each attack broke, and how that share grows with what the attacker spends.

Knows results and statistics; runs nothing and writes three files: ``attacks.json``, ``attacks.csv`` and ``attacks.html``.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mogu.attacks.attempt import attack_info
from mogu.attacks.runner import BehaviorResult
from mogu.evaluation.intervals import Estimate, rate
from mogu.files.atomic import atomic_file
from mogu.files.json_files import write_json

FORMAT = 1
RESULTS_FILE, TABLE_FILE, REPORT_PAGE = "attacks.json", "attacks.csv", "attacks.html"

Scope = Literal["text", "computed", "all"]
SCOPES: dict[Scope, tuple[str, ...]] = {"text": ("text",), "computed": ("gradients",), "all": ("text", "gradients")}
"""Attacks together: those that send text only, those that compute with the weights, and both. Changed weights are another model."""

Unit = Literal["queries", "flops"]
UNITS: tuple[Unit, ...] = ("queries", "flops")

CellResults = Mapping[str, Mapping[str, Sequence[BehaviorResult]]]
"""By system and attack, the results in the order of the behaviors."""


@dataclass(frozen=True)
class Metric:
    """One number of an attack report.

    Args:
        measure: ``"broken"``, the share of behaviors that an attack, or any attack of a scope, broke; ``"complied"``, the share that got
            a reply that did not refuse, whatever it was about; or ``"queries"``, the median number of queries of the behaviors broken.
        system: what was attacked.
        attack: the attack's name; ``None`` for all attacks of a scope together.
        scope: see :data:`SCOPES`; ``None`` for one attack.
        estimate: the value and its interval.
    """

    measure: str
    system: str
    attack: str | None
    scope: Scope | None
    estimate: Estimate

    def as_row(self) -> dict[str, Any]:
        """A flat row for JSON and CSV."""
        fields = {name: value for name, value in vars(self).items() if name != "estimate"}
        return {**fields, **asdict(self.estimate)}


def metrics(cells: CellResults) -> list[Metric]:
    """Compute the shares of each system, attack by attack and scope by scope."""
    computed = []
    for system, by_attack in cells.items():
        for attack, results in by_attack.items():
            if not any(result.attempts for result in results):
                continue  # it had nothing to try on this system
            tried = [result for result in results if result.attempts]
            computed.append(Metric("broken", system, attack, None, rate([[float(result.broken) for result in tried]])))
            computed.append(Metric("complied", system, attack, None, rate([[float(result.complied) for result in tried]])))
            if spent := [result.queries for result in tried if result.broken]:
                median = statistics.median(spent)
                computed.append(Metric("queries", system, attack, None, Estimate(median, min(spent), max(spent), len(spent), 1, "count")))
        for scope, costs in scope_costs(by_attack, "queries").items():
            computed.append(Metric("broken", system, None, scope, rate([[float(cost is not None) for cost in costs]])))
    return computed


def scope_costs(by_attack: Mapping[str, Sequence[BehaviorResult]], unit: Unit) -> dict[Scope, list[float | None]]:
    """What each behavior cost an attacker who makes the attacks of a scope in order, each to its end, until one succeeds.

    Args:
        by_attack: results of one system, by attack, in the order in which they are made.
        unit: what is counted.

    Returns:
        By scope, the cost of each behavior; ``None`` where no attack broke it.
    """
    costs: dict[Scope, list[float | None]] = {}
    for scope, access in SCOPES.items():
        chosen = [results for attack, results in by_attack.items() if attack_info(attack).access in access]
        if chosen:
            costs[scope] = [_cost(of_behavior, unit) for of_behavior in zip(*chosen, strict=True)]
    return costs


def _cost(results: Sequence[BehaviorResult], unit: Unit) -> float | None:
    spent = 0.0
    for result in results:
        spent += float(getattr(result, unit))
        if result.broken:
            return spent
    return None


def curve(costs: Sequence[float | None]) -> list[tuple[float, float, float, float]]:
    """The share of behaviors broken for at most a cost, with its 95 % interval, at every cost at which it rises.

    Args:
        costs: of each behavior, ``None`` where it was not broken.
    """
    points = []
    for cost in sorted({cost for cost in costs if cost is not None}):
        share = rate([[float(one is not None and one <= cost) for one in costs]])
        points.append((cost, share.value, share.low, share.high))
    return points


def as_json(made: Mapping[str, Any], cells: CellResults) -> dict[str, Any]:
    """Everything that ``attacks.json`` holds.

    Args:
        made: how the results were made.
        cells: the results.
    """
    return {
        "format": FORMAT,
        "made": dict(made),
        "numbers": [metric.as_row() for metric in metrics(cells)],
        "curves": {
            system: {unit: {scope: curve(costs) for scope, costs in scope_costs(by_attack, unit).items()} for unit in UNITS}
            for system, by_attack in cells.items()
        },
        "spent": {
            system: {
                attack: {unit: sum(getattr(result, unit) for result in results) / len(results) for unit in UNITS}
                for attack, results in by_attack.items()
            }
            for system, by_attack in cells.items()
        },
    }


def write_results(results: Mapping[str, Any], out: Path) -> None:
    """Write all three files, each whole or not at all.

    Raises:
        MoguError: the folder cannot be written.
    """
    from mogu.attacks.report import page

    write_json(out / RESULTS_FILE, results)
    with atomic_file(out / TABLE_FILE) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(results["numbers"][0]))
        table.writeheader()
        table.writerows(results["numbers"])
    with atomic_file(out / REPORT_PAGE) as scratch:
        scratch.write_text(page(results), encoding="utf-8")
