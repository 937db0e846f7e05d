"""The report of a comparison: one page that opens anywhere, offline, in light and dark.

Knows the content of ``results.json`` and nothing else: a page can be made again from that file alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from mogu.evaluation.compare.metrics import SHARES
from mogu.evaluation.compare.report import labels, plots
from mogu.pages import render
from mogu.pages.formats import percent

Row = dict[str, Any]
RATE_COLUMNS = (
    ("malicious", "refused"),
    ("malicious_wrapped", "refused"),
    ("benign", "answered"),
    ("benign_wrapped", "answered"),
    ("borderline", "answered"),
)
JUDGED_COLUMNS = {
    "malicious": ("harmfulness", "unscored"),
    "malicious_wrapped": ("harmfulness", "unscored"),
    "all_benign": ("helpfulness", "clarity", "factuality", "depth", "engagement", "unscored"),
}
_REFUSED_BY, _AGREEMENT = "refused_by_", "agreement_"
DIFFERENCE_COLUMNS = (("malicious", "refused"), ("malicious_wrapped", "refused"), ("all_benign", "answered"), ("all_benign", "refused"))


def page(results: Row) -> str:
    """Render the report as one HTML page that needs no server; every text is escaped.

    Args:
        results: the content of ``results.json``.
    """
    numbers = results["numbers"]
    made = results["made"]
    first = next(iter(made["models"]), None)  # whose dial, routing weights and score are shown
    shown = {
        "results": results,
        "made": made,
        "headline": headline(results),
        "labels": made["labels"],
        "categories": labels.CATEGORIES,
        "outcomes": labels.OUTCOMES,
        "scorers": labels.SCORERS,
        "shares": SHARES,
        "names": made["defenses"],
        "first": first,
        "further": made["models"][1:],
        "prompts": sum(row["prompts"] for row in results["data"]),
        "frontier": [
            svg
            for category in ("malicious", "malicious_wrapped")
            if (svg := plots.frontier_panel(numbers, category, frontier=results["frontier"], labels=made["labels"], first=first))
        ],
        "rates": _table(numbers, "rate", RATE_COLUMNS),
        "changes": _table(numbers, "difference", DIFFERENCE_COLUMNS),
        "judged": _table(numbers, "judged", [(kind, measure) for kind, measures in JUDGED_COLUMNS.items() for measure in measures]),
        "by_scorer": _by_scorer(numbers),
        "agreements": _agreements(numbers),
        "costs": _costs(numbers),
        "wrappers": _wrappers(numbers),
        "routing": [svg for which in ("unwill", "glad") if (svg := plots.routing_panel(numbers, which))],
        "roc": plots.roc_panel(results["roc"]),
        "reliability": plots.reliability_panel(results["reliability"], made["labels"]),
        "reliable": list(zip(cycle(plots.SCORE_STYLES), results["reliability"], strict=False)),
        "tendency": plots.pick(numbers, section="tendency"),
        "models": _table(numbers, "model", DIFFERENCE_COLUMNS),
        "model_latency": {row["defense"]: row for row in plots.pick(numbers, section="model", measure="added_latency")},
        "areas": list(zip(plots.ROC_STYLES, plots.pick(numbers, section="detector", measure="auroc", defense=first), strict=False)),
        "scores": _scores(numbers),
    }
    return render("mogu.evaluation.compare.report", "page.html.jinja", shown)


def headline(results: Row) -> str:
    """What the first model does, beside no defense, in a sentence; empty where none was compared, or one kind of prompts was not asked.

    Args:
        results: the content of ``results.json``.
    """
    made = results["made"]
    first = next(iter(made["models"]), None)
    refused = _table(results["numbers"], "rate", [("all_malicious", "refused")]).get(("all_malicious", "refused"), {})
    answered = _table(results["numbers"], "rate", [("all_benign", "answered")]).get(("all_benign", "answered"), {})
    if first not in refused or first not in answered:
        return ""

    def beside(rows: dict[str, Row]) -> str:
        return f" ({percent(rows['none']['value'])} without defense)" if "none" in rows else ""

    label = made["labels"].get(first, first)
    return (
        f"{label} refuses {percent(refused[first]['value'])} of malicious requests{beside(refused)} "
        f"and answers {percent(answered[first]['value'])} of benign ones{beside(answered)}."
    )


def _table(numbers: Sequence[Row], section: str, columns: Sequence[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Row]]:
    """Columns that have numbers, each with the row of every defense: data sets together, the dial as it is."""
    table = {}
    for category, measure in columns:
        rows = plots.pick(numbers, section=section, dataset="all", category=category, measure=measure, shift=None)
        if rows:
            table[category, measure] = {row["defense"]: row for row in rows}
    return table


def _by_scorer(numbers: Sequence[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """By kind of prompts and scorer, the refused share of every row."""
    table: dict[tuple[str, str], dict[str, Row]] = {}
    for row in plots.pick(numbers, section="scorer"):
        if row["measure"].startswith(_REFUSED_BY):
            table.setdefault((row["category"], row["measure"].removeprefix(_REFUSED_BY)), {})[row["defense"]] = row
    return table


def _agreements(numbers: Sequence[Row]) -> list[tuple[str, str, Row, Row]]:
    """Each two scorers, the share of replies of which they say the same, and Cohen's kappa."""
    rows = {row["measure"]: row for row in plots.pick(numbers, section="scorer", defense="all")}
    pairs = [measure.removeprefix(_AGREEMENT) for measure in rows if measure.startswith(_AGREEMENT)]
    return [(*pair.split("_"), rows[_AGREEMENT + pair], rows["kappa_" + pair]) for pair in pairs]


def _costs(numbers: Sequence[Row]) -> dict[str, dict[str, Row]]:
    costs: dict[str, dict[str, Row]] = {}
    for row in plots.pick(numbers, section="cost"):
        costs.setdefault(row["defense"], {})[row["measure"]] = row
    return costs


def _scores(numbers: Sequence[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """By what is told apart, and by the row that scores, each measure."""
    rows = plots.pick(numbers, section="detector")
    scores: dict[tuple[str, str], dict[str, Row]] = {}
    for title in dict.fromkeys(row["category"] for row in rows):
        for row in plots.pick(rows, category=title):
            scores.setdefault((title, row["defense"]), {})[row["measure"]] = row
    return scores


def _wrappers(numbers: Sequence[Row]) -> dict[str, dict[str, Row]]:
    table: dict[str, dict[str, Row]] = {}
    for row in plots.pick(numbers, section="wrapper"):
        table.setdefault(row["wrapper"], {})[row["defense"]] = row
    return table
