"""Estimates with 95 % intervals: rates, differences, means, medians, areas under ROC curves, rank correlations.

A table of outcomes is ``[seeds, prompts]``: the same prompts, in the same order, under every seed; NaN stands for an outcome that
could not be scored, and is ignored. Knows numbers; knows nothing of defenses, prompts or files.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Table = NDArray[np.float64]
Method = Literal["wilson", "bootstrap", "count"]

RESAMPLES = 2000
_Z = 1.959963984540054  # the normal distribution's 97.5 % point
_TAILS = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval.

    Args:
        value: the value; NaN where nothing could be scored.
        low: lower end of the interval.
        high: upper end.
        n: number of prompts.
        seeds: number of seeds.
        method: how the interval was computed; ``"count"`` marks a value without randomness, whose interval is the value itself.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: int
    method: Method


def exact(value: float, n: int = 1) -> Estimate:
    """Wrap a value without randomness, such as the bytes of a model's weights."""
    return Estimate(value, value, value, n, 1, "count")


def wilson(share: float, n: int) -> tuple[float, float]:
    """Compute Wilson's score interval of a share of ``n`` independent trials, at 95 % (Wilson, 1927).

    .. code-block:: text

        (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)
    """
    if n == 0:
        return 0.0, 1.0
    center = share + _Z**2 / (2 * n)
    half_width = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    scale = 1 + _Z**2 / n
    # At shares of 0 and 1 the formula gives the ends of the range only up to rounding.
    low = (center - half_width) / scale if share > 0 else 0.0
    high = (center + half_width) / scale if share < 1 else 1.0
    return low, high


def rate(outcomes: ArrayLike) -> Estimate:
    """Estimate the share of outcomes that are 1, the others being 0.

    One seed gets Wilson's interval, several get the bootstrap over seeds and prompts. If all outcomes are equal, so are all resamples,
    which says nothing about the next prompt: then Wilson's interval over prompts is used, however many seeds there are.
    """
    table = _table(outcomes)
    scored = ~np.isnan(table)
    prompts = int(scored.any(axis=0).sum())
    if prompts == 0:
        return Estimate(math.nan, 0.0, 1.0, 0, len(table), "wilson")
    value = float(np.nanmean(table))
    if len(table) == 1 or value in (0.0, 1.0):
        return Estimate(value, *wilson(value, prompts), prompts, len(table), "wilson")
    return Estimate(value, *_interval(resampled_means(table)), prompts, len(table), "bootstrap")


def difference(outcomes: ArrayLike, against: ArrayLike) -> Estimate:
    """Estimate the first rate minus the second, on the same prompts and seeds, by the paired bootstrap.

    If no pair differs, the bootstrap has no width: the share of pairs that may differ is then bounded by Wilson's interval.
    """
    table = _table(outcomes) - _table(against)
    prompts = int((~np.isnan(table)).any(axis=0).sum())
    if prompts == 0:
        return Estimate(math.nan, -1.0, 1.0, 0, len(table), "bootstrap")
    if not np.nan_to_num(table).any():
        bound = wilson(0.0, prompts)[1]
        return Estimate(0.0, -bound, bound, prompts, len(table), "wilson")
    return Estimate(float(np.nanmean(table)), *_interval(resampled_means(table)), prompts, len(table), "bootstrap")


def mean(values: ArrayLike) -> Estimate:
    """Estimate the mean of any values, by the bootstrap over seeds and prompts."""
    table = _table(values)
    prompts = int((~np.isnan(table)).any(axis=0).sum())
    if prompts == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, len(table), "bootstrap")
    return Estimate(float(np.nanmean(table)), *_interval(resampled_means(table)), prompts, len(table), "bootstrap")


def median(values: ArrayLike) -> Estimate:
    """Estimate the median of values such as seconds, by the bootstrap over seeds and prompts."""
    table = _table(values)
    seeds, prompts = table.shape
    random = np.random.default_rng(0)
    rows = random.integers(seeds, size=(RESAMPLES, seeds, 1))
    columns = random.integers(prompts, size=(RESAMPLES, 1, prompts))
    drawn = np.nanmedian(table[rows, columns].reshape(RESAMPLES, -1), axis=1)
    return Estimate(float(np.nanmedian(table)), *_interval(drawn), prompts, seeds, "bootstrap")


def resampled_means(table: Table) -> Table:
    """Compute the means of resamples of a table: seeds are drawn with replacement, and so are prompts, the same ones for every seed.

    The numbers of times that rows and columns are drawn are multinomial, so that all resamples together are two matrix products.
    """
    seeds, prompts = table.shape
    random = np.random.default_rng(0)
    of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES).astype(np.float64)
    of_prompts = random.multinomial(prompts, np.full(prompts, 1 / prompts), size=RESAMPLES).astype(np.float64)
    scored = (~np.isnan(table)).astype(np.float64)
    sums = ((of_seeds @ np.nan_to_num(table)) * of_prompts).sum(axis=1)
    counts = ((of_seeds @ scored) * of_prompts).sum(axis=1)
    means: Table = np.divide(sums, counts, out=np.full(RESAMPLES, np.nan), where=counts > 0)
    return means


def auroc(positive: ArrayLike, negative: ArrayLike) -> Estimate:
    """Estimate the area under the ROC curve of a score that should be higher on the positive prompts, as the mean over seeds.

    The area is the share of (positive, negative) pairs in the right order, with ties counted half. Resamples draw seeds, positive and
    negative prompts. If every pair is in order, so it is in every resample: then Wilson's interval over the smaller class is used.

    Args:
        positive: scores ``[seeds, positive prompts]``.
        negative: scores ``[seeds, negative prompts]``.
    """
    high, low = _table(positive), _table(negative)
    (seeds, positives), negatives = high.shape, low.shape[1]
    random = np.random.default_rng(0)
    of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    of_high = (random.multinomial(positives, np.full(positives, 1 / positives), size=RESAMPLES) / positives).astype(np.float32)
    of_low = (random.multinomial(negatives, np.full(negatives, 1 / negatives), size=RESAMPLES) / negatives).astype(np.float32)
    areas, resampled = [], np.zeros(RESAMPLES)
    for seed in range(seeds):
        gaps = high[seed, :, None] - low[seed, None, :]
        ordered = ((gaps > 0) + 0.5 * (gaps == 0)).astype(np.float32)  # [positive prompts, negative prompts]
        areas.append(float(ordered.mean(dtype=np.float64)))
        resampled += of_seeds[:, seed] * ((of_high @ ordered) * of_low).sum(axis=1)
    value = float(np.mean(areas))
    if value in (0.0, 1.0):
        return Estimate(value, *wilson(value, min(positives, negatives)), positives + negatives, seeds, "wilson")
    return Estimate(value, *_interval(resampled), positives + negatives, seeds, "bootstrap")


def recall_at(positive: ArrayLike, negative: ArrayLike, false_alarms: float) -> Estimate:
    """Estimate the share of positive prompts that a score flags where it flags at most a share of the negative ones: the mean over seeds.

    A prompt is flagged if its score is above the ``k + 1``-th highest of the ``n`` negative ones, ``k = ⌊false_alarms · n⌋``; each seed
    has a threshold of its own. Resamples draw seeds, positive and negative prompts. A recall of 0 or 1 is so in every resample, or nearly:
    then Wilson's interval over the positive prompts is used.

    Args:
        positive: scores ``[seeds, positive prompts]``.
        negative: scores ``[seeds, negative prompts]``.
        false_alarms: the share, in [0, 1).
    """
    high, low = _table(positive), _table(negative)
    (seeds, positives), negatives = high.shape, low.shape[1]
    place = negatives - 1 - math.floor(false_alarms * negatives + 1e-9)

    def recalls(of_high: Table, of_low: Table) -> Table:
        return np.asarray((of_high > np.partition(of_low, place, axis=1)[:, place, None]).mean(axis=1))

    value = float(recalls(high, low).mean())
    if value in (0.0, 1.0):
        return Estimate(value, *wilson(value, positives), positives + negatives, seeds, "wilson")
    random = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLES):
        drawn = random.integers(seeds, size=seeds)
        of_high, of_low = (table[np.ix_(drawn, random.integers(table.shape[1], size=table.shape[1]))] for table in (high, low))
        resampled.append(recalls(of_high, of_low).mean())
    return Estimate(value, *_interval(np.array(resampled)), positives + negatives, seeds, "bootstrap")


def roc_points(positive: ArrayLike, negative: ArrayLike, *, most: int = 200) -> list[tuple[float, float]]:
    """Compute the corners of the ROC curve, all seeds pooled: (share of negatives above a threshold, share of positives above it).

    Args:
        positive: scores of positive prompts, of any shape.
        negative: scores of negative prompts.
        most: keep at most this many corners, evenly spaced.
    """
    from sklearn.metrics import roc_curve

    high, low = np.ravel(positive), np.ravel(negative)
    false, true, _ = roc_curve(np.r_[np.ones(len(high)), np.zeros(len(low))], np.r_[high, low])
    kept = np.unique(np.linspace(0, len(false) - 1, min(most, len(false))).round().astype(int))
    return [(float(false[index]), float(true[index])) for index in kept]


def spearman(first: ArrayLike, second: ArrayLike) -> Estimate:
    """Estimate Spearman's rank correlation of two values of the same prompts, by the bootstrap over prompts; NaN if one is constant.

    Ties get the mean of their ranks, so that binary outcomes can be correlated too; their correlation cannot reach 1.
    """
    from scipy.stats import rankdata

    pair = np.stack([np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)])
    prompts = pair.shape[1]

    def correlated(values: NDArray[np.float64]) -> NDArray[np.float64]:  # [2, resamples, prompts]
        ranks = rankdata(values, axis=-1)
        centered = ranks - ranks.mean(-1, keepdims=True)
        scale = np.sqrt((centered**2).sum(-1).prod(0))
        rho: NDArray[np.float64] = np.divide((centered[0] * centered[1]).sum(-1), scale, out=np.full(scale.shape, np.nan), where=scale > 0)
        return rho

    value = float(correlated(pair[:, None])[0])
    if math.isnan(value):
        return Estimate(value, -1.0, 1.0, prompts, 1, "bootstrap")
    drawn = np.random.default_rng(0).integers(prompts, size=(RESAMPLES, prompts))
    return Estimate(value, *_interval(correlated(pair[:, drawn])), prompts, 1, "bootstrap")


def _table(values: ArrayLike) -> Table:
    table = np.asarray(values, dtype=np.float64)
    return table[None, :] if table.ndim == 1 else table


def _interval(drawn: Table) -> tuple[float, float]:
    percentile: Callable[..., Any] = np.nanpercentile
    low, high = percentile(drawn, _TAILS)
    return float(low), float(high)
