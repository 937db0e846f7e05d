"""The page of a fine-tuning run: what tuning did to the task and to safety, what was tried, how the losses fell, and how it was made.

Knows the content of ``finetune_report.json`` and the losses; measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mogu.finetuning.report import table
from mogu.pages import render
from mogu.pages.formats import percent
from mogu.training.report_page import loss_panels, recipe_rows

PAGE_FILE = "finetune_report.html"

_SHARES = ("direct attack success", "jailbroken attack success", "benign refusals")


def page(report: dict[str, Any], losses: Sequence[Mapping[str, Any]], *, model: str) -> str:
    """Render a fine-tuning run as one HTML page that needs no server; every text is escaped.

    Args:
        report: what ``finetune_report.json`` holds.
        losses: a row for each optimizer step.
        model: the name of the model.
    """
    before, after = report["before"], report["after"]
    head, *rows = table(report)
    measured = [name for name in _SHARES if before.get(name) is not None and after.get(name) is not None]
    shown = {
        "made": {"versions": report["versions"], "command": None},
        "model": model,
        "base": report["recipe"]["model"]["base"],
        "safety": report["recipe"]["safety"]["method"],
        "headline": headline(report),
        "facts": [
            ("Task loss", f"{after['task loss']:.3f}", f"{before['task loss']:.3f} before"),
            *((name.capitalize(), percent(after[name]), f"{percent(before[name])} before") for name in measured),
        ],
        "head": head,
        "rows": rows,
        "chosen": report["chosen"]["name"],
        "rule": report["rule"],
        "stages": loss_panels(losses),
        "conversations": report["conversations"],
        "parameters": report["trained_parameters"],
        "seconds": report["seconds"],
        "recipe": recipe_rows(report["recipe"]),
    }
    return render("mogu.finetuning", "report_page.html.jinja", shown)


def headline(report: Mapping[str, Any]) -> str:
    """What tuning did to the task, and to safety where that was measured, in a sentence.

    Args:
        report: what ``finetune_report.json`` holds.
    """
    before, after, attacks = report["before"], report["after"], _SHARES[0]
    task = f"The loss on held-out conversations went from {before['task loss']:.3f} to {after['task loss']:.3f}."
    if before.get(attacks) is None or after.get(attacks) is None:
        return task
    return (
        f"{task} Direct malicious requests succeed in {percent(after[attacks])} of cases, where they succeeded in "
        f"{percent(before[attacks])} before."
    )
