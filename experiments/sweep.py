"""ML-LR's sweep: which modules learn at the whole learning rate, and how slowly the rest learns.

Sets of one size: the modules whose noise hurts the proxy least (robust), those whose noise hurts it most (fragile), and modules drawn anew
for each seed (random); at each, the rest learns at 0.1 to 1e-4 times the rate, or not at all. At a factor of 1 all are plain tuning. Knows
maps, arms and figures; tunes nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mogu.analysis import Robustness, analyze_robustness
from mogu.analysis.robustness.proxy import ProxyKind
from mogu.data import Record

SUBSETS = ("robust", "random", "fragile")
FACTORS = (0.1, 1e-2, 1e-3, 1e-4, 0.0)
ARMS = {f"{subset}-{factor:g}": (subset, factor) for factor in FACTORS for subset in SUBSETS}
"""The arms of the sweep besides plain tuning, by name."""


def robustness_map(base: str, pairs: Sequence[Record], folder: Path, proxy: ProxyKind, limit: int, draws: int) -> dict[str, float]:
    """Measure the drop of every module, by its full name; a map that was measured is read.

    Args:
        base: the model.
        pairs: records of both labels, or malicious ones with twins.
        folder: keeps the measurements.
        proxy: what the proxy is fitted to.
        limit: records of each label, at most; of twins, twice as many prompts.
        draws: of noise, a module.
    """
    kept = [record for label in ("benign", "malicious") for record in [one for one in pairs if one.label == label][:limit]]
    result = analyze_robustness(Robustness(base, kept, folder, proxy=proxy, draws=draws))
    return {module.name: module.drop for module in result.map.modules}


def modules_of(subset: str, drops: dict[str, float], share: float, seed: int) -> list[str]:
    """The modules of a subset; all subsets of one share have the same number.

    Args:
        subset: one of :data:`SUBSETS`.
        drops: of every module.
        share: of the number of modules, from 0 to 1; at most a half, and robust and fragile have none in common.
        seed: decides the random ones.
    """
    count = max(1, round(share * len(drops)))
    ordered = sorted(drops, key=lambda name: (drops[name], name))
    match subset:
        case "robust":
            return ordered[:count]
        case "fragile":
            return ordered[-count:]
        case _:
            return random.Random(f"{seed} modules").sample(ordered, count)


def sweep_table(figures: dict[str, Any]) -> str:
    """The sweep as Markdown: a row for each factor, and each subset's refusals, direct and jailbroken together, and task accuracy."""
    titles = [f"{subset}: {what}" for subset in SUBSETS for what in ("refused", "task right")]
    lines = ["| slow factor | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    arms = figures["arms"]
    for factor in (1.0, *FACTORS):
        cells = []
        for subset in SUBSETS:
            row = arms.get("plain" if factor == 1 else f"{subset}-{factor:g}")
            cells += [_percent(row[name]) if row is not None else "" for name in ("safety", "task")]
        lines.append(f"| {factor:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def sweep_plot(file: Path, figures: dict[str, Any]) -> None:
    """Plot refusals and task accuracy against the slow factor, a line for each subset."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    arms = figures["arms"]
    places = [1.0, *FACTORS]
    for panel, measure, label in zip(
        figure.subplots(1, 2), ("safety", "task"), ("malicious requests refused, %", "task answers right, %"), strict=True
    ):
        for subset, color in zip(SUBSETS, ("#3f7d20", "#888888", "#c2410c"), strict=True):
            names = ["plain" if factor == 1 else f"{subset}-{factor:g}" for factor in places]
            known = [(place, arms[name][measure]) for place, name in enumerate(names) if name in arms]
            x, y = [place for place, _ in known], [100 * row["value"] for _, row in known]
            errors = [[100 * (row["value"] - row["low"]) for _, row in known], [100 * (row["high"] - row["value"]) for _, row in known]]
            panel.errorbar(x, y, yerr=errors, color=color, marker="s", capsize=2, label=subset)
        panel.set_xticks(range(len(places)), [f"{factor:g}" for factor in places])
        panel.set_xlabel("slow factor outside the subset")
        panel.set_ylabel(label)
        panel.set_ylim(-4, 104)
        panel.grid(alpha=0.25)
        panel.legend()
    figure.savefig(file, dpi=130)


def write_subset(file: Path, names: Sequence[str]) -> None:
    """Write modules as a ``robustness.json`` that ``safety.robust_modules`` takes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"subset": {"modules": list(names)}}), encoding="utf-8")


def _percent(estimate: dict[str, float]) -> str:
    return f"{100 * estimate['value']:.1f} ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f})"
