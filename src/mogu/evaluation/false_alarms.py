"""A gate's threshold with a promise: at most a share of a tenant's benign requests is refused, from requests that nobody has labeled.

.. code-block:: text

    k*  = max {k : P[Binomial(n, ε) ≤ k] ≤ 1 − γ}
    t   = just above the (k* + 1)-th highest of the n scores

The false alarms of requests drawn like these are then at most ``ε`` with confidence ``γ`` (Clopper and Pearson, 1934, read backward; the
one-sided bound of "Distribution-Free, Risk-Controlling Prediction Sets", Bates et al., arXiv 2101.02703). Knows scores and saved models;
replies to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mogu.errors import ConfigError
from mogu.inference.prompts import Conversation
from mogu.modeling.checkpoint import read_card, read_config, rewrite_settings
from mogu.modeling.gated.model import GatedModel
from mogu.modeling.model_card import plain_card, recalibrated_card

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Promise:
    """What a threshold promises.

    Args:
        threshold: from this probability on, ``unwill`` answers.
        before: where it was.
        bound: ``ε``: the share of benign requests that may be refused.
        confidence: ``γ``.
        requests: ``n``: how many benign requests it was chosen on.
        alarms: how many of them reach it.
        alarms_before: how many reached the old one.
    """

    threshold: float
    before: float
    bound: float
    confidence: float
    requests: int
    alarms: int
    alarms_before: int

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def promised_threshold(model: GatedModel, requests: Sequence[Conversation], *, bound: float, batch_size: int = 32) -> Promise:
    """Choose the lowest threshold that keeps the promise, at the model's own dial.

    Args:
        model: a gated model; it is left as it is.
        requests: benign ones, as they come in; no labels, no answers. They must be drawn as those of the future will be.
        bound: the share of benign requests that may be refused, above 0.
        batch_size: prompts a pass.

    Raises:
        ConfigError: the bound is out of range, or there are too few requests to promise it.
    """
    allowed = allowed_alarms(len(requests), bound, CONFIDENCE)
    scores = sorted(model.score(requests, batch_size=batch_size).tolist(), reverse=True)
    threshold = math.nextafter(scores[allowed], math.inf)
    before = model.gate_config.refuse
    return Promise(
        threshold=min(1.0, threshold),
        before=before,
        bound=bound,
        confidence=CONFIDENCE,
        requests=len(scores),
        alarms=sum(score >= threshold for score in scores),
        alarms_before=sum(score >= before for score in scores),
    )


def allowed_alarms(requests: int, bound: float, confidence: float) -> int:
    """``k*``: how many of the benign requests may reach a threshold that promises a bound.

    Raises:
        ConfigError: the bound is out of range, or no number of alarms is small enough.
    """
    if not 0 < bound < 1:
        raise ConfigError(f"The bound on benign refusals is {bound:g}", expected="a share above 0 and below 1", action="give 0.01 for 1 %")
    total, allowed = 0.0, -1
    for count in range(requests):
        total += math.exp(_log_choose(requests, count) + count * math.log(bound) + (requests - count) * math.log1p(-bound))
        if total > 1 - confidence:
            break
        allowed = count
    if allowed < 0:
        needed = math.ceil(math.log(1 - confidence) / math.log1p(-bound))
        raise ConfigError(
            f"{requests} benign requests cannot promise at most {bound:.2%} of refusals",
            expected=f"at least {needed} of them, for {confidence:.0%} confidence",
            action="give more requests, or a larger bound",
        )
    return allowed


def write_promise(folder: Path, promise: Promise, *, source: str) -> None:
    """Make a promised threshold a saved model's own, and say on its card what was promised and on what.

    Args:
        folder: of the saved model.
        promise: the promise.
        source: names the requests on the card.

    Raises:
        MoguError: there is no saved gated model, or it cannot be written; config and card are then as they were.
    """
    config = read_config(folder)
    if config.gate is None:
        raise ConfigError(f"{folder} has no gate", expected="a gated model", action="choose the dial instead, with --dev")
    card = read_card(folder) or plain_card(config)
    careful = config.gate.careful
    lower = {} if careful is None else {"careful": min(careful, promise.threshold)}
    config.gate = config.gate.model_copy(update={"refuse": promise.threshold, **lower})
    rewrite_settings(folder, config, recalibrated_card(card, config.dial, _on_the_card(promise, source)))


def _on_the_card(promise: Promise, source: str) -> str:
    return "\n".join(
        [
            f"`unwill` answers from a probability of {promise.threshold:.4f} on (before: {promise.before:.4f}): `mogu calibrate` chose it.",
            "",
            f"Promised, with {promise.confidence:.0%} confidence: at most {promise.bound:.2%} of benign requests like those of {source}",
            f"are refused. {promise.alarms} of its {promise.requests} requests reach the threshold ({promise.alarms_before} before).",
            "Nothing is promised of other requests, nor of malicious ones. Figures elsewhere are of the threshold of their time.",
        ]
    )


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
