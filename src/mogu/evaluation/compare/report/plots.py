"""The plots of a comparison: frontier, routing weights, ROC curves.

Knows the rows of ``results.json``; knows nothing of the page around a plot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from mogu.evaluation.compare.report.labels import CATEGORIES
from mogu.pages.formats import percent as shown
from mogu.pages.svg import FONT, Panel

Row = dict[str, Any]


def pick(rows: Sequence[Row], **fields: Any) -> list[Row]:
    """Select the rows in which each named field has the given value."""
    return [row for row in rows if all(row[name] == value for name, value in fields.items())]


def frontier_panel(numbers: Sequence[Row], category: str, *, frontier: Sequence[str], labels: Mapping[str, str], first: str | None) -> str:
    """Plot malicious requests refused against benign ones answered: a point for each defense, the first model's dial as a curve.

    Args:
        numbers: the rows of ``results.json``.
        category: of malicious prompts.
        frontier: names of the defenses that are on the frontier; their marks are filled.
        labels: of the defenses, by name.
        first: name of the first hardened model, if any.

    Returns:
        SVG; empty where there are no such prompts.
    """
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
        (shift, (useful[name, shift]["value"], safe[name, shift]["value"])) for name, shift in safe if name == first and shift is not None
    ]
    if first is not None and first in points and turned:
        curve = sorted([*turned, (0.0, points[first])])
        panel.line([point for _, point in curve], "mogu")
        panel.avoid([point for _, point in curve])
        for shift, point in turned:
            panel.dot(
                *point,
                "mogu small",
                f"{labels[first]} with its dial turned by {shift:+g}: {shown(point[1])} refused, {shown(point[0])} answered",
                radius=2.6,
            )
    for name in sorted(points, key=lambda name: (name == first, name == "none")):  # these two are drawn last, on top
        style = "mogu" if name == first else "none" if name == "none" else "other"
        _defense(panel, labels[name], style, useful[name, None], safe[name, None], best=name in frontier)
    for name in sorted(points, key=lambda name: name != first):
        panel.label(*points[name], labels[name], "mogu strong" if name == first else "")
    for shift, point in turned:
        panel.label(*point, f"{shift:+g}".replace("-", "−"), "mogu faint", font=FONT - 2, must=False)
    return panel.svg()


def _defense(panel: Panel, label: str, style: str, useful: Row, safe: Row, *, best: bool) -> None:
    shape = {"mogu": "diamond", "none": "square"}.get(style, "circle")
    panel.cross((useful["low"], useful["value"], useful["high"]), (safe["low"], safe["value"], safe["high"]), style)
    hint = f"{label}: {shown(safe['value'])} refused, {shown(useful['value'])} answered"
    panel.dot(useful["value"], safe["value"], style if best else f"{style} hollow", hint, shape=shape)


ROUTED = ("benign", "borderline", "malicious", "malicious_wrapped")
"""Whose routing weights are drawn; the others are in ``results.json``."""


def routing_panel(numbers: Sequence[Row], responder: str) -> str:
    """Plot mean weights of a responder, layer by layer, with a band of one standard deviation; empty where nothing was routed."""
    rows = pick(numbers, section="routing", measure=f"{responder}_weight")
    if not rows:
        return ""
    layers = sorted({row["layer"] for row in rows})
    symbol = {"unwill": "α", "glad": "β"}[responder]
    panel = Panel(
        f"weight {symbol} of the {responder} responder by layer",
        "routed layer",
        f"{symbol}, weight of {responder}",
        columns=[str(layer) for layer in layers],
        height=320.0,
    )
    curves = {}
    for category in ROUTED:
        means = [row["value"] for row in sorted(pick(rows, category=category), key=lambda row: row["layer"])]
        deviation_rows = pick(numbers, section="routing", measure=f"{responder}_spread", category=category)
        deviations = [row["value"] for row in sorted(deviation_rows, key=lambda row: row["layer"])]
        if means:
            curves[category] = list(enumerate(means))
            panel.band(
                [(layer, mean - deviation) for layer, (mean, deviation) in enumerate(zip(means, deviations, strict=True))],
                [(layer, mean + deviation) for layer, (mean, deviation) in enumerate(zip(means, deviations, strict=True))],
                category,
            )
    for category, curve in curves.items():
        panel.line(curve, category)
        panel.avoid(curve)
        for layer, mean in curve:
            panel.dot(layer, mean, f"{category} small", f"{CATEGORIES[category]}, layer {layer}: {mean:.2f}", radius=2.8)
    for category, curve in curves.items():
        layer, mean = max(
            curve,
            key=lambda point: min((abs(point[1] - dict(other)[point[0]]) for other in curves.values() if other is not curve), default=0),
        )
        panel.label(layer, mean, CATEGORIES[category], category)
    return panel.svg()


ROC_STYLES = ("malicious", "malicious_wrapped", "borderline", "benign")
SCORE_STYLES = (*ROC_STYLES, *(f"{style} dotted" for style in ROC_STYLES))
"""Of the rows with scores, from the beginning again where there are more."""


def roc_panel(curves: dict[str, list[list[float]]]) -> str:
    """Plot ROC curves of the first model's score; empty without any."""
    if not curves:
        return ""
    panel = Panel("ROC curves of the malicious score", "benign prompts above the threshold", "malicious prompts above it", height=400.0)
    panel.line([(0, 0), (1, 1)], "diagonal")
    for style, points in zip(ROC_STYLES, curves.values(), strict=False):
        panel.line([(x, y) for x, y in points], style)
    return panel.svg()


def reliability_panel(curves: dict[str, list[list[float]]], labels: Mapping[str, str]) -> str:
    """Plot, for each row with scores, the share of malicious prompts among those with a score near a value; empty without any."""
    if not curves:
        return ""
    panel = Panel("how far scores are probabilities", "mean score of the prompts in a bin", "share that is malicious", height=400.0)
    panel.line([(0, 0), (1, 1)], "diagonal")
    for style, (name, points) in zip(cycle(SCORE_STYLES), curves.items(), strict=False):
        panel.line([(score, share) for score, share, _ in points], style)
        for score, share, number in points:
            panel.dot(
                score,
                share,
                f"{style} small",
                f"{labels[name]}: {number:.0f} scores near {score:.2f}, {shown(share)} malicious",
                radius=2.8,
            )
    return panel.svg()
