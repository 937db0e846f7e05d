"""How well a straight plane separates benign prompts from malicious ones, in one layer.

Knows vectors and labels; knows nothing of models. scikit-learn is imported only when a plane is fitted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mogu.errors import ConfigError, DataError

STRENGTH = 0.1
"""Inverse of the L2 penalty on standardized vectors (scikit-learn's ``C``): with more features than prompts any labels can be separated."""

MEASURES = ("auroc", "accuracy", "margin")


@dataclass(frozen=True)
class Measured:
    """One number of a probe, on prompts that its plane was not fitted to.

    Args:
        mean: over folds.
        spread: standard deviation over folds (``n - 1``).
        folds: the number in each fold.
    """

    mean: float
    spread: float
    folds: tuple[float, ...]

    @classmethod
    def over(cls, folds: list[float]) -> Measured:
        """From the folds' numbers."""
        numbers = torch.tensor(folds, dtype=torch.float64)
        return cls(float(numbers.mean()), float(numbers.std()), tuple(folds))


@dataclass(frozen=True)
class LayerProbe:
    """What the plane of one layer tells apart.

    Args:
        auroc: how often a malicious prompt lies further on the malicious side than a benign one; chance is 0.5.
        accuracy: share of prompts on their own side of the plane.
        margin: mean of the prompts' signed distances to the plane, positive on a prompt's own side, in units of their standard
            deviation: how far apart the plane holds the two, whatever the scale of the layer. 0 is chance.
    """

    auroc: Measured
    accuracy: Measured
    margin: Measured

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def cross_validated(vectors: Tensor, malicious: Tensor, *, folds: int = 5, seed: int = 0) -> LayerProbe:
    """Fit a logistic regression on all folds but one, measure it on that one, in turn.

    Features are standardized by the mean and the standard deviation of the prompts that are fitted to. Folds hold both labels in the
    same shares.

    Args:
        vectors: ``[prompts, d]``.
        malicious: ``[prompts]``, bool.
        folds: how many.
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
    measured: dict[str, list[float]] = {name: [] for name in MEASURES}
    for fitted, held_out in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, truth):
        plane = fitted_plane(x[fitted], truth[fitted])
        sides = torch.from_numpy(plane.decision_function(x[held_out]))  # distances to the plane, times the norm of its weights
        own = torch.where(malicious[held_out], sides, -sides)
        measured["auroc"].append(float(roc_auc_score(truth[held_out], sides.numpy())))
        measured["accuracy"].append(float((own > 0).double().mean()))
        measured["margin"].append(_in_spreads(own))
    return LayerProbe(**{name: Measured.over(numbers) for name, numbers in measured.items()})


def fitted_plane(x: Any, truth: Any) -> Any:
    """A logistic regression on features standardized by their own mean and standard deviation: scikit-learn's pipeline of the two.

    Args:
        x: ``[prompts, d]``, float64, of NumPy.
        truth: ``[prompts]``, bool, of NumPy: which ones are malicious.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000)).fit(x, truth)


def _in_spreads(own: Tensor) -> float:
    """Mean over standard deviation: the norm of the plane's weights cancels. 0 where all prompts lie alike, as without any weight."""
    spread = float(own.std(correction=0))
    return float(own.mean()) / spread if spread > 1e-12 else 0.0


def check_folds(malicious: int, benign: int, folds: int) -> None:
    """Refuse labels that do not fill the folds.

    Raises:
        ConfigError: there are fewer than two folds.
        DataError: a label has fewer prompts than there are folds.
    """
    if folds < 2:
        raise ConfigError(f"{folds} folds were asked for", expected="two or more", action="give --folds 5")
    for label, count in (("benign", benign), ("malicious", malicious)):
        if count < folds:
            raise DataError(
                f"There are {count} {label} prompts, for {folds} folds",
                expected=f"at least {folds} of each label, so that every fold has one; some hundreds for numbers to rely on",
                action=f"add {label} records" + (", or give fewer --folds" if count >= 2 else ""),
            )


def check_scikit_learn() -> None:
    """Refuse to go on without scikit-learn.

    Raises:
        ConfigError: it is missing.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ConfigError("scikit-learn is not installed", expected="it, to fit probes", action="pip install 'mogu[eval]'") from error
