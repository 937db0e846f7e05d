"""Fit detectors of malicious prompts by logistic regression: on a hidden state, whose layer cross-validation chooses, or on embeddings.

Knows features and labels; knows nothing of records, of files or of how a score is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mogu.analysis.detector import Detector, last_token_states
from mogu.analysis.linear_head import LinearHead
from mogu.analysis.minilm import MiniLM, MinilmDetector
from mogu.errors import ConfigError, DataError

FOLDS = 5
MOST_TO_CHOOSE_BY = 4000
"""Prompts that a layer is chosen by, at most: thirty layers in five folds are 150 fits."""
STRENGTH = 0.1
"""Inverse of the L2 penalty on standardized features: with more features than prompts, any labels can be separated without one."""


def fit_detector(
    base: PreTrainedModel, prompts: Sequence[list[int]], malicious: Sequence[bool], *, pad_token_id: int, batch_size: int
) -> tuple[Detector, dict[str, Any]]:
    """Fit a logistic regression on the base model's hidden state at the last prompt token.

    The layer is the one with the smallest log loss on held-out prompts, in five folds of at most 4,000 prompts.

    Args:
        base: the base model, in evaluation mode.
        prompts: token ids of each training prompt.
        malicious: their labels.
        pad_token_id: the token that pads shorter prompts.
        batch_size: number of prompts in one forward pass.

    Returns:
        The detector, and the results of its layer in cross-validation: ``folds``, ``log_loss``, ``accuracy``, ``benign``, ``malicious``.

    Raises:
        DataError: a label has fewer than two prompts.
        ConfigError: scikit-learn is missing.
    """

    def states() -> dict[int, Tensor]:
        # The last token is the chat template's, so its embedding is the same for every prompt: layers start at 1.
        return dict(enumerate(_all_states(base, prompts, pad_token_id, batch_size)[1:], 1))

    layer, head, about = _fit_head(states, malicious)
    return Detector(layer, head), about


def fit_minilm_detector(minilm: MiniLM, texts: Sequence[str], malicious: Sequence[bool]) -> tuple[MinilmDetector, dict[str, Any]]:
    """Fit a logistic regression on MiniLM's embeddings.

    Args:
        minilm: embeds the texts.
        texts: what the user says in each training prompt.
        malicious: their labels.

    Returns:
        The detector, and its results in cross-validation, as :func:`fit_detector` returns them.

    Raises:
        DataError: a label has fewer than two prompts.
        ConfigError: scikit-learn is missing.
    """
    _, head, about = _fit_head(lambda: {0: minilm.embed(texts).double()}, malicious)
    return MinilmDetector(head), about


def _fit_head(candidates: Callable[[], Mapping[int, Tensor]], malicious: Sequence[bool]) -> tuple[int, LinearHead, dict[str, Any]]:
    """Fit a head on the features that have the smallest log loss on held-out prompts; return their key as well.

    Args:
        candidates: computes features ``[prompts, d]``, float64, once labels and packages are known to be there.
        malicious: labels.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ConfigError(
            "scikit-learn is not installed",
            expected="scikit-learn, to fit the detector of malicious prompts",
            action="pip install 'mogu[eval]'",
        ) from error
    labels = torch.tensor(malicious).long()
    fewest = int(min(labels.sum(), (1 - labels).sum()))
    if fewest < 2:
        raise DataError(
            f"There are {fewest} prompts of one label to fit the detector to", expected="two of each at least", action="add records"
        )
    features = candidates()
    folds = StratifiedKFold(min(FOLDS, fewest), shuffle=True, random_state=0)
    truth = labels.numpy()
    drawn = prompts_to_choose_by(labels)
    drawn_labels = labels[drawn].double()

    def model() -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))

    held_out_scores = {
        key: torch.from_numpy(cross_val_predict(model(), values[drawn].numpy(), truth[drawn], cv=folds, method="predict_proba")[:, 1])
        for key, values in features.items()
    }
    losses = {key: float(torch.nn.functional.binary_cross_entropy(scores, drawn_labels)) for key, scores in held_out_scores.items()}
    best = min(losses, key=lambda key: losses[key])
    scaler, regression = model().fit(features[best].numpy(), truth).named_steps.values()
    # Standardization is linear too, so it is folded into the weights.
    weights = regression.coef_[0] / scaler.scale_
    bias = float(regression.intercept_[0] - weights @ scaler.mean_)
    about = {
        "folds": folds.get_n_splits(),
        "log_loss": losses[best],
        "accuracy": float(((held_out_scores[best] >= 0.5) == drawn_labels.bool()).double().mean()),
        "benign": int((1 - labels).sum()),
        "malicious": int(labels.sum()),
    }
    return best, LinearHead(tuple(float(weight) for weight in weights), bias), about


def prompts_to_choose_by(labels: Tensor) -> Tensor:
    """Indices of the prompts to choose by, in order: of each label its share, and as many as there are folds at least."""
    generator = torch.Generator().manual_seed(0)
    share = min(1.0, MOST_TO_CHOOSE_BY / len(labels))
    found = []
    for of_label in ((labels == label).nonzero()[:, 0] for label in (0, 1)):
        count = max(FOLDS, round(share * len(of_label)))
        found.append(of_label[torch.randperm(len(of_label), generator=generator)[:count]])
    return torch.cat(found).sort().values


def _all_states(base: PreTrainedModel, prompts: Sequence[list[int]], pad_token_id: int, batch_size: int) -> Tensor:
    """Return ``[layers + 1, prompts, d]``, float64, in the prompts' order; prompts of similar length share a forward pass."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    batches = [[prompts[index] for index in order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
    states = torch.cat([last_token_states(base, batch, pad_token_id) for batch in batches], dim=1)
    return states[:, torch.tensor(order).argsort()].double()
