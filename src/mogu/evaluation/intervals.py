"""Estimates with 95 % intervals: rates, differences, means, medians, rank correlations.

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
    table = as_table(outcomes)
    scored = ~np.isnan(table)
    prompts = int(scored.any(axis=0).sum())
    if prompts == 0:
        return Estimate(math.nan, 0.0, 1.0, 0, len(table), "wilson")
    value = float(np.nanmean(table))
    if len(table) == 1 or value in (0.0, 1.0):
        return Estimate(value, *wilson(value, prompts), prompts, len(table), "wilson")
    return Estimate(value, *interval(resampled_means(table)), prompts, len(table), "bootstrap")


def difference(outcomes: ArrayLike, against: ArrayLike) -> Estimate:
    """Estimate the first rate minus the second, on the same prompts and seeds, by the paired bootstrap.

    If no pair differs, the bootstrap has no width: the share of pairs that may differ is then bounded by Wilson's interval.
    """
    table = as_table(outcomes) - as_table(against)
    prompts = int((~np.isnan(table)).any(axis=0).sum())
    if prompts == 0:
        return Estimate(math.nan, -1.0, 1.0, 0, len(table), "bootstrap")
    if not np.nan_to_num(table).any():
        bound = wilson(0.0, prompts)[1]
        return Estimate(0.0, -bound, bound, prompts, len(table), "wilson")
    return Estimate(float(np.nanmean(table)), *interval(resampled_means(table)), prompts, len(table), "bootstrap")


def mean(values: ArrayLike) -> Estimate:
    """Estimate the mean of any values, by the bootstrap over seeds and prompts."""
    table = as_table(values)
    prompts = int((~np.isnan(table)).any(axis=0).sum())
    if prompts == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, len(table), "bootstrap")
    return Estimate(float(np.nanmean(table)), *interval(resampled_means(table)), prompts, len(table), "bootstrap")


def median(values: ArrayLike) -> Estimate:
    """Estimate the median of values such as seconds, by the bootstrap over seeds and prompts."""
    table = as_table(values)
    seeds, prompts = table.shape
    random = np.random.default_rng(0)
    rows = random.integers(seeds, size=(RESAMPLES, seeds, 1))
    columns = random.integers(prompts, size=(RESAMPLES, 1, prompts))
    drawn = np.nanmedian(table[rows, columns].reshape(RESAMPLES, -1), axis=1)
    return Estimate(float(np.nanmedian(table)), *interval(drawn), prompts, seeds, "bootstrap")


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
    return Estimate(value, *interval(correlated(pair[:, drawn])), prompts, 1, "bootstrap")


def as_table(values: ArrayLike) -> Table:
    """Values as ``[seeds, prompts]``; of one seed, where they are a row."""
    table = np.asarray(values, dtype=np.float64)
    return table[None, :] if table.ndim == 1 else table


def interval(drawn: Table) -> tuple[float, float]:
    """The middle 95 % of resampled values."""
    percentile: Callable[..., Any] = np.nanpercentile
    low, high = percentile(drawn, _TAILS)
    return float(low), float(high)
