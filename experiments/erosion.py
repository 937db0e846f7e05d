"""The figures of `python -m experiments.finetuning`: how much safety each method of tuning costs, and how much of it is recovered.

Knows the measurements of each seed and arm; measures nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.sweep import ARMS as SWEEP
from mogu.evaluation.intervals import Estimate, difference, rate, resampled_means

ARMS = {
    "before": "before tuning",
    "plain": "plain",
    "plain-half": "plain, half the learning rate",
    "plain-quarter": "plain, a quarter of it",
    "data-mix": "data-mix",
    "ml-lr": "ml-lr",
    "ml-lr-random": "ml-lr, modules at random",
    "swat": "swat",
    "swat-random": "swat, modules at random",
    "safe-lora": "Safe LoRA",
    "safe-merge": "SafeMERGE",
    "mogu-before": "MoGU, before tuning",
    "mogu-carry": "MoGU, data-mix, carried over",
    "mogu-routers": "MoGU, data-mix, routers trained anew",
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
_CHOSEN = ("data-mix", "ml-lr", "swat", "safe-lora", "safe-merge")
_COMPARED = ("plain-half", "plain-quarter", *_CHOSEN, "ml-lr-random", "swat-random", *SWEEP)
_DEV = {
    "task accuracy": "task right",
    "direct attack success": "direct attacks that succeed",
    "jailbroken attack success": "jailbroken ones",
    "benign refusals": "benign refused",
}
_HARMLESS = ("benign", "benign_wrapped", "borderline")


def estimates(folder: Path, seeds: int) -> dict[str, Any]:
    """Estimate every rate with its 95% interval over seeds and prompts, and what each arm loses and recovers compared to plain tuning."""
    figures: dict[str, Any] = {"arms": {}, "won_back": {}, "task_loss": {}, "chosen": {}, "seeds": {}, "dev": {}}
    tables: dict[str, dict[str, np.ndarray]] = {}
    for arm in (*ARMS, *SWEEP):
        files = [folder / f"seed-{seed}" / f"{arm}.json" for seed in range(seeds)]
        runs = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
        if not runs:
            continue
        tables[arm] = {name: np.array([outcomes(run, name) for run in runs], dtype=float) for name in MEASURES}
        figures["arms"][arm] = {name: asdict(_as_share(rate(table))) for name, table in tables[arm].items()}
        figures["seeds"][arm] = {name: table.mean(axis=1).tolist() for name, table in tables[arm].items()}
        if arm in _CHOSEN:
            figures["dev"] |= {row["name"]: row for row in runs[0]["report"]["tried"]}  # of the first seed, which chooses
        figures["chosen"][arm] = _chosen(runs[0]["report"]) if arm in _CHOSEN else ""
    for arm in _COMPARED:
        if arm in tables and "plain" in tables:
            shared = min(len(tables[name]["task"]) for name in (arm, "plain"))  # seeds of both, if not all have run yet
            before, plain, tuned = ({name: table[:shared] for name, table in tables[run].items()} for run in ("before", "plain", arm))
            measures = ("direct", "jailbroken", "safety")
            figures["won_back"][arm] = {name: asdict(_won_back(before[name], plain[name], tuned[name])) for name in measures}
            figures["task_loss"][arm] = asdict(difference(plain["task"], tuned["task"]))
    return figures


def markdown(figures: dict[str, Any]) -> str:
    """Return the tables of docs/results/finetuning.md."""
    lines = ["| on the test splits, % | " + " | ".join(MEASURES.values()) + " | chosen on dev |", "|---" * (len(MEASURES) + 2) + "|"]
    for arm, row in figures["arms"].items():
        lines.append(f"| {_label(arm)} | " + " | ".join(_percent(row[name]) for name in MEASURES) + f" | {figures['chosen'][arm]} |")
    lines += [
        "",
        "| won back, % of what plain tuning lost | direct | jailbroken | both | task accuracy lost, points |",
        "|---|---|---|---|---|",
    ]
    for arm, row in figures["won_back"].items():
        lost = figures["task_loss"][arm]
        lines.append(f"| {_label(arm)} | " + " | ".join(_percent(row[name]) for name in row) + f" | {_percent(lost)} |")
    lines += ["", "| the first seed, on dev, % | " + " | ".join(_DEV.values()) + " |", "|---" * (len(_DEV) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{100 * row[key]:.1f}" for key in _DEV) + " |" for name, row in figures["dev"].items()]
    return "\n".join(lines) + "\n"


def plot(file: Path, figures: dict[str, Any]) -> None:
    """Plot safety against task accuracy and benign refusals: a dot for each arm and seed, and a cross of intervals for each arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    colors = dict(
        zip(
            ARMS,
            (
                *("#555555", "#c2410c", "#e09060", "#b08900", "#0060a8", "#3f7d20", "#8fbc5a"),
                *("#00838f", "#80cbc4", "#6d4c41", "#bcaaa4", "#000000", "#9a6fb0", "#5e35b1", "#7a1f5c"),
            ),
            strict=True,
        )
    )
    shown = [arm for arm in figures["arms"] if arm in ARMS]  # the sweep has a plot of its own
    tuned = [arm for arm in shown if not arm.endswith("before")]
    for panel, measure, arms in ((left, "task", tuned), (right, "benign_refused", shown)):
        for arm in arms:
            row, seeds = figures["arms"][arm], figures["seeds"][arm]
            x, y = row[measure], row["safety"]
            dots = (np.multiply(seeds[measure], 100), np.multiply(seeds["safety"], 100))
            panel.plot(*dots, "o", color=colors[arm], alpha=0.35, markersize=5, markeredgewidth=0)
            errors = [[[100 * (axis["value"] - axis["low"])], [100 * (axis["high"] - axis["value"])]] for axis in (x, y)]
            panel.errorbar(100 * x["value"], 100 * y["value"], xerr=errors[0], yerr=errors[1], color=colors[arm], marker="s", capsize=2)
        panel.grid(alpha=0.25)
    for arm in shown:
        left.plot([], [], "s-", color=colors[arm], label=ARMS[arm])
    for arm in [arm for arm in shown if arm.endswith("before")]:  # the task is new: it gets nothing right
        left.axhline(100 * figures["arms"][arm]["safety"]["value"], color=colors[arm], linestyle="--", linewidth=1)
    left.set_xlabel("task answers right, %")
    right.set_xlabel("benign requests refused, %")
    left.set_ylabel("malicious requests refused, %\n(mean of direct and jailbroken)")
    left.set_ylim(-4, 104)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(file, dpi=130)


def outcomes(run: dict[str, Any], name: str) -> list[float]:
    """Outcomes of a run's prompts as zeros and ones, by what is counted."""
    verdicts = run["verdicts"]
    refused = {kind: [float(verdict == "refused") for verdict in verdicts[kind]] for kind in verdicts}
    match name:
        case "task":
            return [float(right) for right in run["task"]]
        case "direct":
            return refused["malicious"]
        case "jailbroken":
            return refused["malicious_wrapped"]
        case "safety":
            # Both kinds have the same weight, however many prompts there are of each.
            direct, jailbroken = refused["malicious"], refused["malicious_wrapped"]
            total = len(direct) + len(jailbroken)
            return [outcome * total / (2 * len(kind)) for kind in (direct, jailbroken) for outcome in kind]
        case "benign":
            return [float(verdict == "answered") for kind in _HARMLESS for verdict in verdicts[kind]]
        case "benign_plain_answered" | "benign_wrapped_answered" | "borderline_answered":
            kind = {"benign_plain_answered": "benign"}.get(name, name.removesuffix("_answered"))
            return [float(verdict == "answered") for verdict in verdicts[kind]]
        case "borderline_refused":
            return refused["borderline"]
        case _:
            return [outcome for kind in _HARMLESS for outcome in refused[kind]]


def _as_share(estimate: Estimate) -> Estimate:
    # The outcomes of "both refused" are weighted: a resample with more of the heavier kind may exceed 1.
    return replace(estimate, low=max(estimate.low, 0.0), high=min(estimate.high, 1.0))


def _won_back(before: np.ndarray, plain: np.ndarray, tuned: np.ndarray) -> Estimate:
    """Estimate ``(tuned − plain) / (before − plain)``, with resamples that draw the same seeds and prompts for all three."""
    before = np.broadcast_to(before[:1], plain.shape)
    value = (tuned.mean() - plain.mean()) / (before.mean() - plain.mean())
    drawn = (resampled_means(tuned) - resampled_means(plain)) / (resampled_means(before) - resampled_means(plain))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(float(value), float(low), float(high), plain.shape[1], len(plain), "bootstrap")


def _label(arm: str) -> str:
    if arm in ARMS:
        return ARMS[arm]
    subset, factor = SWEEP[arm]
    return f"ml-lr, {subset} modules, slow factor {factor:g}"


def _chosen(report: dict[str, Any]) -> str:
    return str(report["chosen"]["name"].partition(", ")[2] or "plain")


def _percent(estimate: dict[str, float]) -> str:
    return f"{100 * estimate['value']:.1f} ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f})"
