"""How well a score tells malicious prompts from benign ones, and how far it is a probability: estimates with 95 % intervals, and curves.

Scores are ``[seeds, prompts]``, of positive (malicious) and of negative prompts. Knows numbers; knows nothing of where scores come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from mogu.evaluation.intervals import RESAMPLES, Estimate, Table, as_table, interval, wilson

BINS = 10
"""Of a score between 0 and 1, where it is held against shares."""

_Statistic = Callable[[Table, Table], Table]
"""Of positive and negative scores ``[seeds, prompts]``: one value a seed."""


def auroc(positive: ArrayLike, negative: ArrayLike) -> Estimate:
    """Estimate the area under the ROC curve of a score that should be higher on the positive prompts, as the mean over seeds.

    The area is the share of (positive, negative) pairs in the right order, with ties counted half. Resamples draw seeds, positive and
    negative prompts. If every pair is in order, so it is in every resample: then Wilson's interval over the smaller class is used.

    Args:
        positive: scores ``[seeds, positive prompts]``.
        negative: scores ``[seeds, negative prompts]``.
    """
    high, low = as_table(positive), as_table(negative)
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
    return Estimate(value, *interval(resampled), positives + negatives, seeds, "bootstrap")


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
    low = as_table(negative)
    place = low.shape[1] - 1 - math.floor(false_alarms * low.shape[1] + 1e-9)

    def recalls(of_high: Table, of_low: Table) -> Table:
        return np.asarray((of_high > np.partition(of_low, place, axis=1)[:, place, None]).mean(axis=1))

    return _estimate(recalls, positive, low)


def average_precision(positive: ArrayLike, negative: ArrayLike) -> Estimate:
    """Estimate the average precision of a score, ``Σ (R_n − R_{n−1}) P_n`` over its thresholds, as the mean over seeds.

    ``R`` is the recall and ``P`` the share of positive prompts among those at or above a threshold. Unlike the area under the ROC curve it
    depends on how many positive and negative prompts there are. Resamples draw seeds, positive and negative prompts.

    Args:
        positive: scores ``[seeds, positive prompts]``.
        negative: scores ``[seeds, negative prompts]``.
    """
    return _estimate(lambda high, low: np.array([_average_precision(*pair) for pair in zip(high, low, strict=True)]), positive, negative)


def _average_precision(high: Table, low: Table) -> float:
    scores, labels = np.concatenate([high, low]), np.repeat([1.0, 0.0], [len(high), len(low)])
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(labels[order])
    last = np.append(scores[1:] != scores[:-1], True)  # of those with one score
    recall, precision = hits[last] / len(high), (hits / np.arange(1, len(scores) + 1))[last]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def calibration_error(positive: ArrayLike, negative: ArrayLike) -> Estimate:
    """Estimate the expected calibration error of a score between 0 and 1, taken as a probability, as the mean over seeds.

    .. code-block:: text

        Σ_b n_b/n · |mean score in bin b − share of positive prompts in bin b|

    Bins are ten of equal width (Guo et al., 2017). Resamples draw seeds, positive and negative prompts.

    Args:
        positive: scores ``[seeds, positive prompts]``.
        negative: scores ``[seeds, negative prompts]``.
    """

    def errors(high: Table, low: Table) -> Table:
        scores = np.concatenate([high, low], axis=1)
        labels = np.repeat([1.0, 0.0], [high.shape[1], low.shape[1]])
        return np.array([np.abs(np.bincount(_bins(row), weights=row - labels, minlength=BINS)).sum() / len(row) for row in scores])

    return _estimate(errors, positive, negative)


def reliability_points(positive: ArrayLike, negative: ArrayLike) -> list[tuple[float, float, int]]:
    """Compute of each bin of a score with prompts in it the mean score, the share of positive prompts and their number; seeds pooled."""
    high, low = np.ravel(positive), np.ravel(negative)
    scores, labels = np.concatenate([high, low]), np.repeat([1.0, 0.0], [len(high), len(low)])
    places = _bins(scores)
    return [
        (float(scores[places == place].mean()), float(labels[places == place].mean()), int((places == place).sum()))
        for place in np.unique(places)
    ]


def _bins(scores: Table) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    return np.clip((scores * BINS).astype(np.intp), 0, BINS - 1)


def _estimate(statistic: _Statistic, positive: ArrayLike, negative: ArrayLike) -> Estimate:
    """The mean of a statistic over seeds, by the bootstrap over seeds, positive and negative prompts."""
    high, low = as_table(positive), as_table(negative)
    (seeds, positives), negatives = high.shape, low.shape[1]
    value = float(statistic(high, low).mean())
    if value in (0.0, 1.0):
        return Estimate(value, *wilson(value, positives), positives + negatives, seeds, "wilson")
    random = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLES):
        drawn = random.integers(seeds, size=seeds)
        of_high, of_low = (table[np.ix_(drawn, random.integers(table.shape[1], size=table.shape[1]))] for table in (high, low))
        resampled.append(statistic(of_high, of_low).mean())
    return Estimate(value, *interval(np.array(resampled)), positives + negatives, seeds, "bootstrap")


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
