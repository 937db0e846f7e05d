"""From replies to the metrics of a comparison, each with its 95 % interval.

Knows replies and statistics; runs no model and writes no file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from mogu.evaluation.compare.cells import GUARD_UNSCORED, UNSAFE, UNSCORED, Row
from mogu.evaluation.compare.costs import SystemCost
from mogu.evaluation.compare.lineup import Variant
from mogu.evaluation.intervals import Estimate, difference, exact, mean, median, rate
from mogu.evaluation.prompts import BENIGN, MALICIOUS, EvalPrompt

Section = Literal["rate", "difference", "model", "wrapper", "judged", "cost", "routing", "detector", "tendency", "scorer"]

ALL_MALICIOUS, ALL_BENIGN, ALL = "all_malicious", "all_benign", "all"
BASELINE = "none"
SHARES = (UNSCORED, GUARD_UNSCORED, UNSAFE)
"""What of a judge's numbers is a share of prompts; the others are ratings."""

Replies = dict[Variant, list[list[Row]]]
"""For each variant the rows under each seed, in the prompts' order."""


@dataclass(frozen=True)
class Metric:
    """One number of a comparison.

    Args:
        section: ``"rate"``; ``"difference"`` (from no defense, on the same prompts); ``"model"`` (a further model's difference from
            the first model, on the same prompts); ``"wrapper"`` (a rate within one wrapper); ``"judged"`` (a judge's mean, 1 to 5,
            or the share of prompts that it left unscored); ``"cost"``; ``"routing"`` (a mean routing weight at the last prompt
            token, or its standard deviation); ``"detector"``; ``"scorer"`` (a refused share as one scorer sees it, or how far two
            agree); ``"tendency"`` (its rank correlation with what became of a prompt).
        measure: what is counted: ``"refused"``, ``"answered"``, ``"seconds"``, ``"unwill_weight"``, ``"auroc"``, …
        estimate: the value, its interval and what is behind it.
        defense: name of the defense, or of the hardened model.
        shift: how far the model's dial is turned from its own setting, ``None`` where it is not.
        dataset: data set, ``"all"`` for all together.
        category: kind of prompts; ``"all_malicious"`` and ``"all_benign"`` are their kinds together.
        wrapper: the wrapper, where there is one.
        layer: index of the routed decoder layer, where there is one.
    """

    section: Section
    measure: str
    estimate: Estimate
    defense: str
    shift: float | None = None
    dataset: str = ALL
    category: str = ALL
    wrapper: str | None = None
    layer: int | None = None

    def as_row(self) -> dict[str, Any]:
        """A flat row for JSON and CSV."""
        fields = {name: value for name, value in vars(self).items() if name != "estimate"}
        return {**fields, **asdict(self.estimate)}


def rates(prompts: Sequence[EvalPrompt], replies: Replies, models: Sequence[str] = ()) -> Iterator[Metric]:
    """Compute refused and answered shares of every variant, by data set and category, and how far they are from others' shares.

    Args:
        prompts: the prompts.
        replies: the replies to them.
        models: names of the hardened models; each is compared with the first one, and everything with no defense.
    """
    undefended, first_model = (replies.get(Variant(name)) for name in (BASELINE, models[0] if models else ""))
    datasets = list(dict.fromkeys(prompt.dataset for prompt in prompts))
    scopes = [ALL, *datasets] if len(datasets) > 1 else [ALL]
    for scope in scopes:
        for category, members in _groups(prompts):
            chosen = [index for index, prompt in enumerate(prompts) if prompt.category in members and scope in (ALL, prompt.dataset)]
            if not chosen:
                continue
            measures = ("refused",) if category in (*MALICIOUS, ALL_MALICIOUS) else ("answered", "refused")
            for variant, seeds in replies.items():
                for measure in measures:
                    outcomes = _outcomes(seeds, chosen, measure)
                    key: dict[str, Any] = {"defense": variant.system, "shift": variant.shift, "dataset": scope, "category": category}
                    yield Metric("rate", measure, rate(outcomes), **key)
                    if undefended is not None and variant.system != BASELINE:
                        yield Metric("difference", measure, difference(outcomes, _outcomes(undefended, chosen, measure)), **key)
                    if first_model is not None and variant.system in models[1:]:
                        yield Metric("model", measure, difference(outcomes, _outcomes(first_model, chosen, measure)), **key)


def wrapper_rates(prompts: Sequence[EvalPrompt], replies: Replies) -> Iterator[Metric]:
    """Compute refused shares of malicious requests in each wrapper, of every row at its own setting."""
    for wrapper in sorted({prompt.wrapper for prompt in prompts if prompt.wrapper is not None}):
        chosen = [index for index, prompt in enumerate(prompts) if prompt.wrapper == wrapper and prompt.is_malicious]
        for variant, seeds in replies.items():
            if chosen and variant.shift is None:
                estimate = rate(_outcomes(seeds, chosen, "refused"))
                yield Metric("wrapper", "refused", estimate, variant.system, category="malicious_wrapped", wrapper=wrapper)


def judged_means(prompts: Sequence[EvalPrompt], replies: Replies) -> Iterator[Metric]:
    """Compute means of a judge's ratings over the prompts that it scored, and the share that it left unscored; nothing without a judge."""
    for category, members in _groups(prompts):
        chosen = [index for index, prompt in enumerate(prompts) if prompt.category in members]
        for variant, seeds in replies.items():
            names = sorted({name for rows in seeds for index in chosen for name in rows[index].judged})
            for name in names:
                ratings = [[rows[index].judged.get(name, math.nan) for index in chosen] for rows in seeds]
                estimate = rate(ratings) if name in SHARES else mean(ratings)
                yield Metric("judged", name, estimate, variant.system, variant.shift, category=category)


def routing_weights(prompts: Sequence[EvalPrompt], seeds: Sequence[Sequence[Row]], layers: Sequence[int], model: str) -> Iterator[Metric]:
    """Compute mean α and β of each layer at the last prompt token, by category, and their standard deviations over prompts.

    Args:
        prompts: the prompts.
        seeds: the model's rows under each seed.
        layers: indices of its routed decoder layers.
        model: its name.
    """
    if not all("unwill" in row.details for rows in seeds for row in rows):
        return  # nothing was routed
    for category, members in _groups(prompts, pooled=False):
        chosen = [index for index, prompt in enumerate(prompts) if prompt.category in members]
        for responder in ("unwill", "glad") if chosen else ():
            weights = np.array([[rows[index].details[responder] for index in chosen] for rows in seeds])  # [seeds, prompts, layers]
            for index, layer in enumerate(layers):
                yield Metric("routing", f"{responder}_weight", mean(weights[:, :, index]), model, category=category, layer=layer)
                deviation = exact(float(weights[:, :, index].std()), len(chosen))
                yield Metric("routing", f"{responder}_spread", deviation, model, category=category, layer=layer)


def cost_metrics(costs: Sequence[SystemCost], models: Sequence[str] = ()) -> Iterator[Metric]:
    """Compute seconds, added latency, passes, tokens and memory of every row.

    Args:
        costs: the costs.
        models: names of the hardened models; the time of each is also compared with the first one's.
    """
    undefended, first_model = (
        next((cost for cost in costs if cost.defense == name), None) for name in (BASELINE, models[0] if models else None)
    )
    for cost in costs:
        own = np.median(np.array(cost.seconds), axis=1)  # [prompts]
        yield Metric("cost", "seconds", median(own), cost.defense)
        if undefended is not None and cost is not undefended:
            yield Metric("cost", "added_latency", _added_latency(cost, undefended), cost.defense)
        if first_model is not None and cost.defense in models[1:]:
            yield Metric("model", "added_latency", _added_latency(cost, first_model), cost.defense)
        yield Metric("cost", "passes", mean(cost.passes), cost.defense)
        yield Metric("cost", "tokens", mean(cost.tokens), cost.defense)
        if cost.added_parameters is not None:
            yield Metric("cost", "added_parameters", exact(cost.added_parameters), cost.defense)
        yield Metric("cost", "weights_bytes", exact(cost.weights_bytes), cost.defense)
        if cost.peak_bytes is not None:
            yield Metric("cost", "peak_bytes", exact(cost.peak_bytes), cost.defense)


def _added_latency(cost: SystemCost, reference: SystemCost) -> Estimate:
    """Median over prompts of the ratio of times, minus 1; paired round by round, since those times were taken right after one another."""
    ratios = np.median(np.array(cost.seconds) / np.array(reference.seconds), axis=1)
    return median(ratios - 1)


def frontier(metrics: Sequence[Metric]) -> list[str]:
    """Find the rows that no other is better than on both axes: malicious requests refused, benign ones answered."""
    refused, answered = _own_rates(metrics, ALL_MALICIOUS, "refused"), _own_rates(metrics, ALL_BENIGN, "answered")
    points = {name: (refused[name], answered[name]) for name in refused if name in answered}
    return [
        name
        for name, (safe, useful) in points.items()
        if not any(other != (safe, useful) and other[0] >= safe and other[1] >= useful for other in points.values())
    ]


def _own_rates(metrics: Sequence[Metric], category: str, measure: str) -> dict[str, float]:
    """A rate over all data sets by row, with the dial as it is."""
    key = ("rate", None, ALL, category, measure)
    return {
        metric.defense: metric.estimate.value
        for metric in metrics
        if (metric.section, metric.shift, metric.dataset, metric.category, metric.measure) == key
    }


def _groups(prompts: Sequence[EvalPrompt], *, pooled: bool = True) -> list[tuple[str, tuple[str, ...]]]:
    present = {prompt.category for prompt in prompts}
    single = [(category, (category,)) for category in (*MALICIOUS, *BENIGN) if category in present]
    return [*single, (ALL_MALICIOUS, MALICIOUS), (ALL_BENIGN, BENIGN)] if pooled else list(single)


def _outcomes(seeds: Sequence[Sequence[Row]], indices: Sequence[int], outcome: str) -> list[list[float]]:
    return [[float(rows[index].outcome == outcome) for index in indices] for rows in seeds]
