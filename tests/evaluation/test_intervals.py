"""Intervals held against textbook values, exact enumerations and SciPy's bootstrap."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from mogu.evaluation.intervals import difference, mean, median, rate, resampled_means, wilson
from mogu.evaluation.score_intervals import auroc, average_precision, calibration_error, recall_at, reliability_points, roc_points


def proportion(successes: int, trials: int) -> tuple[float, float]:
    interval = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return interval.low, interval.high


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, table I, method 3: four decimals.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_the_textbook(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes / trials, trials) == pytest.approx((low, high), abs=5e-5)
    assert wilson(successes / trials, trials) == pytest.approx(proportion(successes, trials), abs=1e-12)


def test_a_rate_of_one_seed_has_wilsons_interval() -> None:
    found = rate([1] * 40 + [0] * 10)
    assert (found.value, found.n, found.seeds, found.method) == (0.8, 50, 1, "wilson")
    assert (found.low, found.high) == pytest.approx(proportion(40, 50))


def test_a_rate_without_a_miss_keeps_a_width_however_many_seeds() -> None:
    found = rate(np.ones((5, 160)))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(proportion(160, 160)[0])


def test_what_could_not_be_scored_counts_nowhere() -> None:
    found = rate([1, 0, math.nan, 1])
    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)
    assert math.isnan(rate([math.nan]).value)


def test_resampling_of_seeds_and_prompts_agrees_with_every_possible_resample() -> None:
    table = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    every = [
        table[np.ix_(seeds, prompts)].mean()
        for seeds in itertools.product(range(2), repeat=2)
        for prompts in itertools.product(range(3), repeat=3)
    ]
    drawn = resampled_means(table)
    assert drawn.mean() == pytest.approx(np.mean(every), abs=4 * np.std(every) / math.sqrt(len(drawn)))
    assert drawn.std() == pytest.approx(np.std(every), rel=0.06)
    # Not the same as drawing outcomes one by one, which forgets that seeds and prompts go together.
    assert np.std(every) > 1.2 * table.std() / math.sqrt(table.size)


def test_pooled_rates_get_wider_when_seeds_disagree() -> None:
    prompts = np.arange(100)
    alike = np.tile(prompts % 2 == 0, (4, 1)).astype(float)
    apart = np.stack([np.zeros(100), np.zeros(100), np.ones(100), np.ones(100)])
    assert rate(alike).value == rate(apart).value == 0.5
    assert rate(apart).high - rate(apart).low > 3 * (rate(alike).high - rate(alike).low)


def test_a_difference_is_paired() -> None:
    random = np.random.default_rng(3)
    hard = random.random(200) < 0.5
    ours, theirs = (~hard).astype(float), (~hard & (random.random(200) < 0.8)).astype(float)
    found = difference(ours, theirs)
    scipys = stats.bootstrap((ours, theirs), lambda a, b, axis: (a - b).mean(axis=axis), paired=True, method="percentile", rng=1)
    assert found.value == pytest.approx(ours.mean() - theirs.mean())
    assert (found.low, found.high) == pytest.approx((scipys.confidence_interval.low, scipys.confidence_interval.high), abs=0.012)
    unpaired = 1.96 * math.sqrt(ours.var() / 200 + theirs.var() / 200)
    assert found.high - found.low < 2 * unpaired * 0.7


def test_two_defenses_that_never_differ_may_still_differ_on_the_next_prompt() -> None:
    found = difference(np.ones((2, 50)), np.ones((2, 50)))
    assert (found.value, found.high) == (0.0, pytest.approx(proportion(0, 50)[1]))
    assert found.low == -found.high


def test_medians_and_means_agree_with_scipys_bootstrap() -> None:
    seconds = np.random.default_rng(5).lognormal(size=60)
    for ours, theirs in ((median(seconds), np.median), (mean(seconds), np.mean)):
        scipys = stats.bootstrap((seconds,), theirs, method="percentile", rng=2).confidence_interval
        assert ours.value == theirs(seconds)
        assert (ours.low, ours.high) == pytest.approx((scipys.low, scipys.high), rel=0.06)


def test_auroc_agrees_with_scikit_learn_and_its_interval_with_delong() -> None:
    random = np.random.default_rng(7)
    high, low = random.normal(1, 1, 80).round(1), random.normal(0, 1, 120).round(1)  # rounded, so that there are ties
    found = auroc(high, low)
    assert found.value == pytest.approx(roc_auc_score([1] * 80 + [0] * 120, np.r_[high, low]), abs=1e-9)
    ordered = (high[:, None] > low[None, :]) + 0.5 * (high[:, None] == low[None, :])
    # DeLong, DeLong and Clarke-Pearson (1988): the variance of the area from its two kinds of components.
    error = math.sqrt(ordered.mean(1).var(ddof=1) / 80 + ordered.mean(0).var(ddof=1) / 120)
    assert (found.low, found.high) == pytest.approx((found.value - 1.96 * error, found.value + 1.96 * error), abs=0.01)


def test_auroc_of_several_seeds_is_their_mean() -> None:
    right, wrong = [[2.0, 3.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]
    assert auroc(right, wrong).value == 0.5
    assert auroc(right, wrong).low == 0.0


def test_recall_agrees_with_the_roc_curve_of_scikit_learn() -> None:
    from sklearn.metrics import roc_curve

    random = np.random.default_rng(3)
    positive, negative = random.normal(1.5, 1, 150), random.normal(0, 1, 200)
    labels = np.r_[np.ones(150), np.zeros(200)]
    false, true, _ = roc_curve(labels, np.r_[positive, negative], drop_intermediate=False)
    for share in (0.0, 0.01, 0.05, 0.125, 0.5):
        found = recall_at([positive], [negative], share)
        assert found.value == pytest.approx(true[false <= share + 1e-9].max())
        assert found.low < found.value < found.high
        assert found.n == 350


def test_recall_takes_a_threshold_for_each_seed_and_ties_are_not_flagged() -> None:
    positive, negative = [[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]], [[2.0, 0.0], [25.0, 0.0]]
    assert recall_at(positive, negative, 0.0).value == 0.5  # 3 and 4, then 30 and 40
    assert recall_at(positive, negative, 0.5).value == 1.0  # one of two may be flagged: the threshold is 0
    assert recall_at([[1.0] * 20], [[1.0] * 20], 0.05).value == 0.0
    certain = recall_at([[1.0] * 20], [[0.0] * 20], 0.05)
    assert (certain.value, certain.method) == (1.0, "wilson")
    assert certain.low == pytest.approx(wilson(1.0, 20)[0])


def test_the_interval_of_a_recall_covers_the_truth_as_often_as_it_says() -> None:
    # A normal score shifted by 1.5: the recall at 5 % false alarms is 1 - Phi(1.645 - 1.5) = 0.442.
    random, covered = np.random.default_rng(11), 0
    for _ in range(40):
        found = recall_at([random.normal(1.5, 1, 200)], [random.normal(0, 1, 200)], 0.05)
        covered += found.low <= 0.442 <= found.high
    assert covered >= 34


def test_roc_points_run_from_corner_to_corner_and_enclose_the_area() -> None:
    random = np.random.default_rng(9)
    high, low = random.normal(1, 1, 500), random.normal(0, 1, 500)
    points = np.array(roc_points(high, low, most=1000))
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(auroc(high, low).value, abs=1e-3)
    assert len(roc_points(high, low, most=50)) <= 50


def test_average_precision_agrees_with_scikit_learn() -> None:
    random = np.random.default_rng(4)
    positive, negative = random.normal(1, 1, (2, 60)).round(1), random.normal(0, 1, (2, 90)).round(1)  # rounded, so that there are ties
    labels = [1] * 60 + [0] * 90
    wanted = [average_precision_score(labels, [*high, *low]) for high, low in zip(positive, negative, strict=True)]
    found = average_precision(positive, negative)
    assert found.value == pytest.approx(np.mean(wanted))
    assert found.low < found.value < found.high
    assert average_precision([[1.0, 1.0]], [[0.0]]).value == 1.0


def test_calibration_error_of_scores_counted_by_hand() -> None:
    # Bin 0.1 to 0.2: 0.1 and 0.14 with one positive; bin 0.9 to 1: 0.95 and 1, both positive. 4 scores.
    positive, negative = [0.1, 0.95, 1.0], [0.14]
    wanted = (abs(0.1 - 1 + 0.14) + abs(0.95 - 1 + 1.0 - 1)) / 4
    assert calibration_error(positive, negative).value == pytest.approx(wanted)
    assert calibration_error([1.0], [0.0]).value == 0.0
    assert reliability_points(positive, negative) == [(pytest.approx(0.12), 0.5, 2), (pytest.approx(0.975), 1.0, 2)]


def test_a_probability_is_calibrated() -> None:
    random = np.random.default_rng(5)
    scores = random.uniform(size=20_000)
    malicious = random.uniform(size=20_000) < scores
    assert calibration_error(scores[malicious], scores[~malicious]).value < 0.02
    assert calibration_error(scores[malicious] ** 3, scores[~malicious] ** 3).value > 0.2
