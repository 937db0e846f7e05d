"""The plots of a comparison: frontier, routing weights, ROC curves.

Knows the rows of ``results.json``; knows nothing of the page around a plot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mogu.evaluation.compare.report.labels import CATEGORIES, DEFENSES
from mogu.evaluation.compare.report.labels import percent as shown
from mogu.evaluation.compare.report.svg import FONT, Panel

Row = dict[str, Any]


def pick(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows in which each named field has the given value."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def frontier_panel(numbers: Sequence[Row], frontier: Sequence[str], category: str) -> str:
    """Malicious requests refused against benign ones answered: a point a defense, MoGU's dial as a curve; empty without such prompts."""
    safe = {
        (row["defense"], row["shift"]): row for row in pick(numbers, section="rate", dataset="all", category=category, measure="refused")
    }
    useful = {
        (row["defense"], row["shift"]): row
        for row in pick(numbers, section="rate", dataset="all", category="all_benign", measure="answered")
    }
    if not safe or not useful:
        return ""
    panel = Panel(
        f"{CATEGORIES[category]} refused against benign requests answered",
        "benign requests answered →",
        f"{CATEGORIES[category]} refused →",
    )
    points = {name: (useful[name, None]["value"], safe[name, None]["value"]) for name, shift in safe if shift is None}
    turned = [
        (shift, (useful[name, shift]["value"], safe[name, shift]["value"])) for name, shift in safe if name == "mogu" and shift is not None
    ]
    if "mogu" in points and turned:
        curve = sorted([*turned, (0.0, points["mogu"])])
        panel.line([point for _, point in curve], "mogu")
        panel.avoid([point for _, point in curve])
        for shift, point in turned:
            panel.dot(
                *point,
                "mogu small",
                f"MoGU with its dial turned by {shift:+g}: {shown(point[1])} refused, {shown(point[0])} answered",
                radius=2.6,
            )
    for name in sorted(points, key=lambda name: (name == "mogu", name == "none")):  # the two that others are held against lie on top
        _defense(panel, name, useful[name, None], safe[name, None], best=name in frontier)
    for name in sorted(points, key=lambda name: name != "mogu"):
        panel.label(*points[name], DEFENSES.get(name, name), "mogu strong" if name == "mogu" else "")
    for shift, point in turned:
        panel.label(*point, f"{shift:+g}".replace("-", "−"), "mogu faint", font=FONT - 2, must=False)
    return panel.svg()


def _defense(panel: Panel, name: str, useful: Row, safe: Row, *, best: bool) -> None:
    style = "mogu" if name == "mogu" else "none" if name == "none" else "other"
    shape = {"mogu": "diamond", "none": "square"}.get(style, "circle")
    panel.cross((useful["low"], useful["value"], useful["high"]), (safe["low"], safe["value"], safe["high"]), style)
    hint = f"{DEFENSES.get(name, name)}: {shown(safe['value'])} refused, {shown(useful['value'])} answered"
    panel.dot(useful["value"], safe["value"], style if best else f"{style} hollow", hint, shape=shape)


ROUTED = ("benign", "borderline", "malicious", "malicious_wrapped")
"""Whose routing weights are drawn; the others are in ``results.json``."""


def routing_panel(numbers: Sequence[Row], which: str) -> str:
    """Mean weights of one responder, layer by layer, with a band of one standard deviation; empty where nothing was routed."""
    rows = pick(numbers, section="routing", measure=f"{which}_weight")
    if not rows:
        return ""
    layers = sorted({row["layer"] for row in rows})
    symbol = {"unwill": "α", "glad": "β"}[which]
    panel = Panel(
        f"weight {symbol} of the {which} responder by layer",
        "routed layer",
        f"{symbol}, weight of {which}",
        columns=[str(layer) for layer in layers],
        height=320.0,
    )
    curves = {}
    for category in ROUTED:
        means = [row["value"] for row in sorted(pick(rows, category=category), key=lambda row: row["layer"])]
        spreads = pick(numbers, section="routing", measure=f"{which}_spread", category=category)
        spread = [row["value"] for row in sorted(spreads, key=lambda row: row["layer"])]
        if means:
            curves[category] = list(enumerate(means))
            panel.band(
                [(layer, mean - wide) for layer, (mean, wide) in enumerate(zip(means, spread, strict=True))],
                [(layer, mean + wide) for layer, (mean, wide) in enumerate(zip(means, spread, strict=True))],
                category,
            )
    for category, curve in curves.items():
        panel.line(curve, category)
        panel.avoid(curve)
        for layer, mean in curve:
            panel.dot(layer, mean, f"{category} small", f"{CATEGORIES[category]}, layer {layer}: {mean:.2f}", radius=2.8)
    for category, curve in curves.items():
        place, mean = max(
            curve,
            key=lambda point: min((abs(point[1] - dict(other)[point[0]]) for other in curves.values() if other is not curve), default=0),
        )
        panel.label(place, mean, CATEGORIES[category], category)
    return panel.svg()


ROC_STYLES = ("malicious", "malicious_wrapped", "borderline", "benign")


def roc_panel(curves: dict[str, list[list[float]]]) -> str:
    """ROC curves of MoGU's score; empty without any."""
    if not curves:
        return ""
    panel = Panel("ROC curves of the malicious score", "benign prompts above the threshold", "malicious prompts above it", height=400.0)
    panel.line([(0, 0), (1, 1)], "diagonal")
    for style, points in zip(ROC_STYLES, curves.values(), strict=False):
        panel.line([(x, y) for x, y in points], style)
    return panel.svg()
