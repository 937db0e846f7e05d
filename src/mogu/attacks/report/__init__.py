"""The report of attacks: one page that opens anywhere, offline, in light and dark.

Knows the content of ``attacks.json`` and nothing else: a page can be made again from that file alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mogu.pages import render
from mogu.pages.formats import percent
from mogu.pages.svg import Panel

Row = dict[str, Any]

FAMILIES = {
    "direct": "asked as it is",
    "templates": "templates and prompts of others",
    "prefill": "the answer begun by the attacker",
    "delayed": "harmless text first",
    "formats": "rules and formats",
    "encodings": "encodings and languages",
    "context": "many examples",
    "dialogue": "several turns",
    "sampling": "many tries",
    "optimizers": "with gradients or losses",
    "weights": "weights changed",
}
SCOPES = {"text": "attacks on text", "computed": "attacks that compute with the weights", "all": "all of these"}
UNDEFENDED = "none"
_STYLES = ("none", "mogu", "malicious", "malicious_wrapped", "borderline", "benign", "other")
_AXES = {"queries": "queries on a request", "flops": "floating-point operations on a request"}


def page(results: Mapping[str, Any]) -> str:
    """Render the report as one HTML page that needs no server; every text is escaped.

    Args:
        results: the content of ``attacks.json``.
    """
    made, numbers = results["made"], results["numbers"]
    systems = made["defenses"]
    first = next(iter(made["models"]), None)
    shares = {(row["system"], row["attack"] or row["scope"]): row for row in numbers if row["measure"] == "broken"}
    complied = {(row["system"], row["attack"]): row for row in numbers if row["measure"] == "complied"}
    styles = dict(zip(systems, _STYLES, strict=False))
    shown = {
        "made": made,
        "systems": systems,
        "labels": made["labels"],
        "first": first,
        "told": [system for system in systems if system in (first, UNDEFENDED)],
        "families": _families(made["attacks"]),
        "scopes": SCOPES,
        "shares": shares,
        "complied": complied,
        "medians": {(row["system"], row["attack"]): row for row in numbers if row["measure"] == "queries"},
        "spent": results["spent"],
        "panels": {unit: _panel(results["curves"], unit, made["labels"], styles, first) for unit in _AXES},
        "styles": styles,
    }
    return render("mogu.attacks.report", "page.html.jinja", shown)


def headline(results: Mapping[str, Any]) -> str:
    """How often the first model gives in, in a sentence; the system without defense where there is no model.

    Args:
        results: the content of ``attacks.json``.
    """
    made = results["made"]
    system = next(iter([*made["models"], *made["defenses"]]))
    broken = {
        row["attack"] or row["scope"]: row["value"] for row in results["numbers"] if (row["system"], row["measure"]) == (system, "broken")
    }
    parts = [f"{what} break {percent(broken[scope])}" for scope, what in SCOPES.items() if scope in broken and scope != "all"]
    return (
        f"Of {made['behaviors']} malicious requests to {made['labels'].get(system, system)}, {' and '.join(parts) or 'none was attacked'}."
    )


def _families(attacks: Mapping[str, Row]) -> dict[str, list[str]]:
    """Names of the attacks of each family, in the order of reports."""
    families: dict[str, list[str]] = {}
    for name, info in attacks.items():
        families.setdefault(FAMILIES[info["family"]], []).append(name)
    return families


def _panel(curves: Mapping[str, Any], unit: str, labels: Mapping[str, str], styles: Mapping[str, str], first: str | None) -> str:
    """Plot the share of requests broken over what the attacks cost until then, made in order; empty where nothing was broken."""
    broken = {system: by_unit[unit].get("all", []) for system, by_unit in curves.items()}
    costs = [point[0] for points in broken.values() for point in points if point[0] > 0]
    if not costs:
        return ""
    powers = math.floor(math.log10(min(costs))), max(math.floor(math.log10(min(costs))) + 1, math.ceil(math.log10(max(costs))))
    panel = Panel(f"share of requests broken by {_AXES[unit]}", f"{_AXES[unit]}, at most", "requests broken", powers=powers, height=400.0)
    for system, points in broken.items():
        if not points or system not in styles:
            continue
        steps = _steps(points, 10.0 ** powers[1])
        if system in (first, UNDEFENDED):  # more bands than two hide each other
            panel.band([(x, low) for x, _, low, _ in steps], [(x, high) for x, _, _, high in steps], styles[system])
        panel.line([(x, share) for x, share, _, _ in steps], styles[system])
        for cost, share, low, high in points:
            hint = f"{labels[system]}: {percent(share)} ({percent(low)} to {percent(high)}) for at most {cost:,.0f}"
            panel.dot(cost, share, f"{styles[system]} small", hint, radius=2.8)
    return panel.svg()


def _steps(points: list[list[float]], end: float) -> list[tuple[float, float, float, float]]:
    """The corners of a curve that rises at its points and is level between them."""
    steps: list[tuple[float, float, float, float]] = []
    for cost, share, low, high in points:
        if steps:
            steps.append((cost, *steps[-1][1:]))
        steps.append((cost, share, low, high))
    return [*steps, (end, *steps[-1][1:])]
