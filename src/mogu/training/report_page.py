"""The page of a training run: what the model does now, what was chosen among what, how the losses fell, and how it was made.

Knows the content of ``training_report.json`` and the losses; measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mogu.pages import render
from mogu.pages.curves import STYLES, step_curves
from mogu.pages.formats import percent
from mogu.pages.svg import Panel
from mogu.training.dev_examples import DevExample

PAGE_FILE = "training_report.html"

_MEASURED = {
    "malicious_refused": "malicious requests refused",
    "benign_answered": "benign requests answered",
    "borderline_answered": "borderline requests answered",
}
_COUNTS = {"malicious_refused": "malicious", "benign_answered": "benign", "borderline_answered": "borderline"}
_NOT_SHOWN = {"malicious", "benign", "borderline", *_MEASURED}


def page(report: Mapping[str, Any], losses: Sequence[Mapping[str, Any]], *, model: str, examples: Sequence[DevExample] = ()) -> str:
    """Render a training run as one HTML page that needs no server; every text is escaped.

    Args:
        report: what ``training_report.json`` holds.
        losses: a row for each optimizer step of every stage.
        model: the name of the model.
        examples: dev requests with the replies to them.
    """
    chosen, base, candidates = report["chosen"], report["base_on_dev"], report["candidates"]
    measured = [name for name in _MEASURED if chosen.get(name) is not None and base.get(name) is not None]
    settings = [name for name in chosen if name not in _NOT_SHOWN and any(row.get(name) is not None for row in candidates)]
    shown = {
        "made": {"versions": report["versions"], "command": None},
        "model": model,
        "base": report["recipe"]["model"]["base"],
        "method": report["recipe"]["method"],
        "headline": headline(report),
        "facts": [
            (_MEASURED[name].capitalize(), percent(chosen[name]), f"{percent(base[name])} before, {chosen[_COUNTS[name]]} dev prompts")
            for name in measured
        ],
        "head": ["candidate", *(_MEASURED[name] for name in measured), *(name.replace("_", " ") for name in settings)],
        "candidates": [
            [str(number), *(percent(row[name]) for name in measured), *(_cell(row.get(name)) for name in settings)]
            for number, row in enumerate(candidates, 1)
        ],
        "kept": candidates.index(chosen) if chosen in candidates else None,
        "plane": _plane(candidates, chosen, base) if len(candidates) > 1 else "",
        "examples": examples,
        "stages": loss_panels(losses),
        "records": report["records"],
        "parameters": report["added_parameters"],
        "seconds": report["seconds"],
        "recipe": recipe_rows(report["recipe"]),
    }
    return render("mogu.training", "report_page.html.jinja", shown)


def headline(report: Mapping[str, Any]) -> str:
    """What the model does on the dev records beside its base, in a sentence.

    Args:
        report: what ``training_report.json`` holds.
    """
    now, before = report["chosen"], report["base_on_dev"]
    return (
        f"It refuses {percent(now['malicious_refused'])} of malicious dev requests, where its base model refuses "
        f"{percent(before['malicious_refused'])}, and answers {percent(now['benign_answered'])} of benign ones, where the base model "
        f"answers {percent(before['benign_answered'])}."
    )


def loss_panels(losses: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """For each stage its title, its plot, and the style and name of each of its curves.

    Args:
        losses: a row for each optimizer step, with its ``stage``, ``step`` and ``loss``.
    """
    runs: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in losses:
        name = str(row["stage"])
        panel = name.partition(" ")[0].rstrip(",")
        runs.setdefault(panel, {}).setdefault(name, []).append((row["step"], row["loss"]))
    return [
        (panel, step_curves(f"Loss of {panel} over its steps", curves), list(zip(_styles(len(curves)), curves, strict=True)))
        for panel, curves in runs.items()
    ]


def _styles(count: int) -> list[str]:
    return [STYLES[index % len(STYLES)] for index in range(count)]


def _plane(candidates: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Every candidate, and the base model, by how many benign requests it answers and how many malicious ones it refuses."""
    panel = Panel("candidates by benign requests answered and malicious ones refused", "benign answered", "malicious refused")
    by_settings: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in candidates:
        if "dial" in row:
            key = tuple(str(value) for name, value in row.items() if name not in (*_NOT_SHOWN, "dial", "balanced_accuracy", "separation"))
            by_settings.setdefault(key, []).append(row)
    for same in by_settings.values():
        ordered = sorted(same, key=lambda row: row["dial"])
        panel.line([(row["benign_answered"], row["malicious_refused"]) for row in ordered], "other")
    for number, row in enumerate(candidates, 1):
        kept = row == chosen
        hint = f"candidate {number}: {percent(row['malicious_refused'])} refused, {percent(row['benign_answered'])} answered"
        panel.dot(row["benign_answered"], row["malicious_refused"], "mogu" if kept else "other hollow", hint)
    panel.dot(base["benign_answered"], base["malicious_refused"], "none", "the base model")
    panel.label(base["benign_answered"], base["malicious_refused"], "base model", "none")
    panel.label(chosen["benign_answered"], chosen["malicious_refused"], "chosen", "mogu strong")
    return panel.svg()


def _cell(value: Any) -> str:
    if value is None:
        return "·"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def recipe_rows(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The sections of a recipe, each with its settings in one line; settings that are not set are left out."""

    def settings(values: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} = {value}" for name, value in values.items() if value is not None)

    return [(f"[{section}]", settings(values)) for section, values in recipe.items() if isinstance(values, dict)]
