"""Probes give the known numbers of clusters, and those of a recomputation by other means."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mogu.analysis import cross_validated
from mogu.analysis.linear_probe import STRENGTH
from mogu.errors import ConfigError, DataError, MoguError


def clusters(count: int, width: int, apart: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two normal clusters of unit standard deviation whose means lie ``apart`` from one another, in features of very different scale."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=generator, dtype=torch.float64)
    malicious = torch.rand(count, generator=generator) < 0.5
    x[:, 0] += apart * malicious
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
    return x @ turn * 1e3 + 5e3, malicious


@pytest.mark.parametrize("apart", [0.5, 1.5, 3.0])
def test_clusters_of_known_overlap(apart: float) -> None:
    probe = cross_validated(*clusters(6000, 4, apart))

    def share_below(z: float) -> float:
        return 0.5 * (1 + math.erf(z / math.sqrt(2)))

    assert probe.auroc.mean == pytest.approx(share_below(apart / math.sqrt(2)), abs=0.015)
    assert probe.accuracy.mean == pytest.approx(share_below(apart / 2), abs=0.015)
    assert probe.margin.mean == pytest.approx(apart / 2, abs=0.06)
    assert 0 < probe.auroc.std < 0.03


def test_numbers_are_those_of_a_recomputation() -> None:
    x, malicious = clusters(150, 30, 1.0, seed=1)
    truth = malicious.numpy()
    folds = StratifiedKFold(4, shuffle=True, random_state=7)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
    sides = cross_val_predict(classifier, x.numpy(), truth, cv=folds, method="decision_function")
    auroc, accuracy, margin = [], [], []
    for _, held_out in folds.split(x.numpy(), truth):
        bad, good = sides[held_out][truth[held_out]], sides[held_out][~truth[held_out]]
        auroc.append(np.mean([(b > g) + 0.5 * (b == g) for b in bad for g in good]))
        own = np.concatenate([bad, -good])
        accuracy.append(np.mean(own > 0))
        margin.append(own.mean() / own.std())
    probe = cross_validated(x, malicious, folds=4, seed=7)
    for found, expected in ((probe.auroc, auroc), (probe.accuracy, accuracy), (probe.margin, margin)):
        assert found.folds == pytest.approx(expected, abs=1e-9)
        assert found.mean == pytest.approx(np.mean(expected), abs=1e-9)
        assert found.std == pytest.approx(np.std(expected, ddof=1), abs=1e-9)


def test_the_margin_does_not_depend_on_the_scale() -> None:
    x, malicious = clusters(200, 5, 2.0)
    assert cross_validated(x, malicious).margin.mean == pytest.approx(cross_validated(x / 1e6, malicious).margin.mean, rel=1e-6)


def test_layers_that_tell_nothing_are_at_chance() -> None:
    malicious = torch.arange(100) < 50
    alike = cross_validated(torch.ones(100, 6), malicious)
    assert (alike.auroc.mean, alike.auroc.std, alike.margin.mean) == (0.5, 0.0, 0.0)


def test_the_seed_decides_the_folds() -> None:
    x, malicious = clusters(80, 5, 1.0)
    assert cross_validated(x, malicious, seed=1) == cross_validated(x, malicious, seed=1)
    assert cross_validated(x, malicious, seed=1) != cross_validated(x, malicious, seed=2)


@pytest.mark.parametrize(
    ("malicious", "folds", "error", "complaint"),
    [
        (4, 5, DataError, "There are 4 malicious prompts, for 5 folds"),
        (17, 5, DataError, "There are 3 benign prompts"),
        (0, 5, DataError, "There are 0 malicious prompts"),
        (10, 1, ConfigError, "1 folds"),
    ],
)
def test_labels_that_do_not_fill_the_folds(malicious: int, folds: int, error: type[MoguError], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        cross_validated(torch.randn(20, 3), torch.arange(20) < malicious, folds=folds)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"scikit-learn is not installed.*mogu\[eval\]"):
        cross_validated(torch.randn(20, 3), torch.arange(20) < 10)
