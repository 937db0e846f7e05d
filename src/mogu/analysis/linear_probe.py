"""Measure how well a linear classifier separates benign prompts from malicious ones in one layer.

Knows vectors and labels; knows nothing of models. scikit-learn is imported only when a classifier is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from mogu.errors import ConfigError, DataError

STRENGTH = 0.1
"""Inverse of the L2 penalty on standardized vectors (scikit-learn's ``C``): with more features than prompts any labels can be separated."""


@dataclass(frozen=True)
class FoldStatistics:
    """One metric of a probe, on prompts that its classifier was not fitted to.

    Args:
        mean: over folds.
        std: standard deviation over folds (``n - 1``).
        folds: the value in each fold.
    """

    mean: float
    std: float
    folds: tuple[float, ...]

    @classmethod
    def over(cls, folds: list[float]) -> FoldStatistics:
        """Compute the statistics of the folds' values."""
        values = torch.tensor(folds, dtype=torch.float64)
        return cls(float(values.mean()), float(values.std()), tuple(folds))


@dataclass(frozen=True)
class LayerProbe:
    """How well the linear classifier of one layer separates the labels.

    Args:
        auroc: how often a malicious prompt lies further on the malicious side than a benign one; chance is 0.5.
        accuracy: share of prompts on their own side of the decision boundary.
        margin: mean of the prompts' signed distances to the decision boundary, positive on a prompt's own side, divided by their
            standard deviation: how far apart the two labels are, whatever the scale of the layer. Chance is 0.
    """

    auroc: FoldStatistics
    accuracy: FoldStatistics
    margin: FoldStatistics

    def as_json(self) -> dict[str, Any]:
        """Return plain data, as files hold it: there the standard deviation is called ``spread``."""
        metrics = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: {"mean": metric.mean, "spread": metric.std, "folds": metric.folds} for name, metric in metrics.items()}

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> LayerProbe:
        """Return the probe that :meth:`as_json` turned into plain data."""
        return cls(**{name: FoldStatistics(metric["mean"], metric["spread"], tuple(metric["folds"])) for name, metric in metrics.items()})


def cross_validated(vectors: Tensor, malicious: Tensor, *, folds: int = 5, seed: int = 0) -> LayerProbe:
    """Fit a logistic regression on all folds but one and measure it on that one, for each fold in turn.

    Features are standardized by the mean and standard deviation of the prompts that the regression is fitted to. Each fold has both
    labels in the same shares.

    Args:
        vectors: ``[prompts, d]``.
        malicious: ``[prompts]``, bool.
        folds: number of folds.
        seed: decides which prompt is in which fold.

    Raises:
        ConfigError: scikit-learn is missing, or there are fewer than two folds.
        DataError: a label has fewer prompts than there are folds.
    """
    check_folds(int(malicious.sum()), int((~malicious).sum()), folds)
    check_scikit_learn()
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    x, truth = vectors.double().numpy(), malicious.numpy()
    metrics: dict[str, list[float]] = {field.name: [] for field in fields(LayerProbe)}
    for fitted, held_out in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, truth):
        classifier = fit_linear_classifier(x[fitted], truth[fitted])
        # Signed distances to the decision boundary, times the norm of the classifier's weights.
        distances = torch.from_numpy(classifier.decision_function(x[held_out]))
        own_side = torch.where(malicious[held_out], distances, -distances)
        metrics["auroc"].append(float(roc_auc_score(truth[held_out], distances.numpy())))
        metrics["accuracy"].append(float((own_side > 0).double().mean()))
        metrics["margin"].append(_standardized_mean(own_side))
    return LayerProbe(**{name: FoldStatistics.over(values) for name, values in metrics.items()})


def fit_linear_classifier(x: Any, truth: Any) -> Any:
    """Fit a logistic regression on features standardized by their own mean and standard deviation: a scikit-learn pipeline.

    Args:
        x: ``[prompts, d]``, a float64 array of NumPy.
        truth: ``[prompts]``, a bool array of NumPy: which prompts are malicious.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000)).fit(x, truth)


def _standardized_mean(distances: Tensor) -> float:
    """Return mean over standard deviation, in which the norm of the weights cancels; 0 if all distances are equal, as without weights."""
    std = float(distances.std(correction=0))
    return float(distances.mean()) / std if std > 1e-12 else 0.0


def check_folds(malicious: int, benign: int, folds: int) -> None:
    """Refuse labels with too few prompts to fill the folds.

    Raises:
        ConfigError: there are fewer than two folds.
        DataError: a label has fewer prompts than there are folds.
    """
    if folds < 2:
        raise ConfigError(f"{folds} folds were asked for", expected="two or more", action="give --folds 5, in a recipe probe.folds = 5")
    for label, count in (("benign", benign), ("malicious", malicious)):
        if count < folds:
            raise DataError(
                f"There are {count} {label} prompts, for {folds} folds",
                expected=f"at least {folds} of each label, so that every fold has one; a few hundred for reliable numbers",
                action=f"add {label} records" + (", or give fewer folds (--folds, in a recipe probe.folds)" if count >= 2 else ""),
            )


def check_scikit_learn() -> None:
    """Refuse to continue without scikit-learn.

    Raises:
        ConfigError: it is missing.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "scikit-learn is not installed", expected="scikit-learn, to fit probes", action="pip install 'mogu[eval]'"
        ) from error
