"""The figures of `python -m benchmarks.finetuning`: what each way of tuning costs in safety, and how much of it is won back.

Knows what was measured of each seed and arm; measures nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from mogu.evaluation.intervals import Estimate, difference, rate, resampled_means

ARMS = {
    "before": "before tuning",
    "plain": "plain",
    "plain-half": "plain, half the learning rate",
    "plain-quarter": "plain, a quarter of it",
    "data-mix": "data-mix",
    "ml-lr": "ml-lr",
    "ml-lr-random": "ml-lr, modules at random",
    "mogu-before": "MoGU, before tuning",
    "mogu-carry": "MoGU, data-mix, carried over",
    "mogu-retrain": "MoGU, data-mix, trained anew",
}
MEASURES = {
    "task": "task right",
    "direct": "direct refused",
    "jailbroken": "jailbroken refused",
    "safety": "both refused",
    "benign": "benign answered",
    "benign_refused": "benign refused",
    "borderline_refused": "borderline refused",
}
_CHOSEN = ("data-mix", "ml-lr")
_DEV = {
    "task accuracy": "task right",
    "direct attack success": "direct attacks that succeed",
    "jailbroken attack success": "jailbroken ones",
    "benign refusals": "benign refused",
}
_HARMLESS = ("benign", "benign_wrapped", "borderline")


def estimates(folder: Path, seeds: int) -> dict[str, Any]:
    """Every rate with its 95 % interval over seeds and prompts, and of each way what it loses and wins back beside plain tuning."""
    found: dict[str, Any] = {"arms": {}, "won_back": {}, "task_loss": {}, "chosen": {}, "seeds": {}, "dev": {}}
    tables: dict[str, dict[str, np.ndarray]] = {}
    for arm in ARMS:
        files = [folder / f"seed-{seed}" / f"{arm}.json" for seed in range(seeds)]
        runs = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
        if not runs:
            continue
        tables[arm] = {name: np.array([_outcomes(run, name) for run in runs], dtype=float) for name in MEASURES}
        found["arms"][arm] = {name: asdict(_a_share(rate(table))) for name, table in tables[arm].items()}
        found["seeds"][arm] = {name: table.mean(axis=1).tolist() for name, table in tables[arm].items()}
        if arm in _CHOSEN:
            found["dev"] |= {row["name"]: row for row in runs[0]["report"]["tried"]}  # of the first seed, which chose
        found["chosen"][arm] = _chosen(runs[0]["report"]) if arm in _CHOSEN else ""
    for arm in ("plain-half", "plain-quarter", *_CHOSEN, "ml-lr-random"):
        if arm in tables:
            both = min(len(tables[name]["task"]) for name in (arm, "plain"))  # seeds, where not all are run yet
            before, plain, tuned = ({name: table[:both] for name, table in tables[one].items()} for one in ("before", "plain", arm))
            won = {name: asdict(_won_back(before[name], plain[name], tuned[name])) for name in ("direct", "jailbroken", "safety")}
            found["won_back"][arm] = won
            found["task_loss"][arm] = asdict(difference(plain["task"], tuned["task"]))
    return found


def markdown(found: dict[str, Any]) -> str:
    """The tables of docs/results/finetuning.md."""
    lines = ["| on the test splits, % | " + " | ".join(MEASURES.values()) + " | chosen on dev |", "|---" * (len(MEASURES) + 2) + "|"]
    for arm, row in found["arms"].items():
        lines.append(f"| {ARMS[arm]} | " + " | ".join(_percent(row[name]) for name in MEASURES) + f" | {found['chosen'][arm]} |")
    lines += [
        "",
        "| won back, % of what plain tuning lost | direct | jailbroken | both | task accuracy lost, points |",
        "|---|---|---|---|---|",
    ]
    for arm, row in found["won_back"].items():
        lost = found["task_loss"][arm]
        lines.append(f"| {ARMS[arm]} | " + " | ".join(_percent(row[name]) for name in row) + f" | {_percent(lost)} |")
    lines += ["", "| the first seed, on dev, % | " + " | ".join(_DEV.values()) + " |", "|---" * (len(_DEV) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{100 * row[key]:.1f}" for key in _DEV) + " |" for name, row in found["dev"].items()]
    return "\n".join(lines) + "\n"


def plot(file: Path, found: dict[str, Any]) -> None:
    """Safety against task accuracy, and against benign refusals: a dot for each arm and seed, and a cross of intervals for each arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    colors = dict(
        zip(
            ARMS,
            ("#555555", "#c2410c", "#e09060", "#b08900", "#0060a8", "#3f7d20", "#8fbc5a", "#000000", "#9a6fb0", "#7a1f5c"),
            strict=True,
        )
    )
    tuned = [arm for arm in found["arms"] if not arm.endswith("before")]
    for panel, measure, arms in ((left, "task", tuned), (right, "benign_refused", list(found["arms"]))):
        for arm in arms:
            row, seeds = found["arms"][arm], found["seeds"][arm]
            x, y = row[measure], row["safety"]
            dots = (np.multiply(seeds[measure], 100), np.multiply(seeds["safety"], 100))
            panel.plot(*dots, "o", color=colors[arm], alpha=0.35, markersize=5, markeredgewidth=0)
            errors = [[[100 * (one["value"] - one["low"])], [100 * (one["high"] - one["value"])]] for one in (x, y)]
            panel.errorbar(100 * x["value"], 100 * y["value"], xerr=errors[0], yerr=errors[1], color=colors[arm], marker="s", capsize=2)
        panel.grid(alpha=0.25)
    for arm in found["arms"]:
        left.plot([], [], "s-", color=colors[arm], label=ARMS[arm])
    for arm in [arm for arm in found["arms"] if arm.endswith("before")]:  # the task is new: it gets nothing right
        left.axhline(100 * found["arms"][arm]["safety"]["value"], color=colors[arm], linestyle="--", linewidth=1)
    left.set_xlabel("task answers right, %")
    right.set_xlabel("benign requests refused, %")
    left.set_ylabel("malicious requests refused, %\n(mean of direct and jailbroken)")
    left.set_ylim(-4, 104)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(file, dpi=130)


def _outcomes(run: dict[str, Any], name: str) -> list[float]:
    verdicts = run["verdicts"]
    refused = {kind: [float(one == "refused") for one in verdicts[kind]] for kind in verdicts}
    match name:
        case "task":
            return [float(one) for one in run["task"]]
        case "direct":
            return refused["malicious"]
        case "jailbroken":
            return refused["malicious_wrapped"]
        case "safety":
            # Both kinds weigh the same, however many prompts there are of each.
            direct, jailbroken = refused["malicious"], refused["malicious_wrapped"]
            total = len(direct) + len(jailbroken)
            return [one * total / (2 * len(some)) for some in (direct, jailbroken) for one in some]
        case "benign":
            return [float(one == "answered") for kind in _HARMLESS for one in verdicts[kind]]
        case "borderline_refused":
            return refused["borderline"]
        case _:
            return [one for kind in _HARMLESS for one in refused[kind]]


def _a_share(one: Estimate) -> Estimate:
    # Of "both refused", whose outcomes are weighted, a resample may hold more of the heavier kind than there is.
    return replace(one, low=max(one.low, 0.0), high=min(one.high, 1.0))


def _won_back(before: np.ndarray, plain: np.ndarray, tuned: np.ndarray) -> Estimate:
    """``(tuned − plain) / (before − plain)``, with resamples that draw the same seeds and prompts for all three."""
    before = np.broadcast_to(before[:1], plain.shape)
    value = (tuned.mean() - plain.mean()) / (before.mean() - plain.mean())
    drawn = (resampled_means(tuned) - resampled_means(plain)) / (resampled_means(before) - resampled_means(plain))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(float(value), float(low), float(high), plain.shape[1], len(plain), "bootstrap")


def _chosen(report: dict[str, Any]) -> str:
    way = report["chosen"]["name"].partition(", ")[2] or "plain"
    return str(way)


def _percent(one: dict[str, float]) -> str:
    return f"{100 * one['value']:.1f} ({100 * one['low']:.1f} to {100 * one['high']:.1f})"
