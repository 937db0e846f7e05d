"""A promised threshold against SciPy's binomial distribution, against simulated traffic, and on a saved model."""

from __future__ import annotations

import json
import random

import pytest
from scipy.stats import beta, binom

from mogu import MoguModel
from mogu.errors import ConfigError
from mogu.evaluation.false_alarms import Promise, allowed_alarms, promised_threshold, write_promise
from mogu.modeling.config import MoguConfig
from tests.gated_models import gated_config, gated_pair


@pytest.mark.parametrize(("requests", "bound"), [(299, 0.01), (500, 0.01), (1000, 0.02), (60, 0.05), (5000, 0.001), (20000, 0.01)])
def test_the_alarms_that_are_allowed_are_those_of_the_exact_interval(requests: int, bound: float) -> None:
    allowed = allowed_alarms(requests, bound, 0.95)
    assert binom.cdf(allowed, requests, bound) <= 0.05 < binom.cdf(allowed + 1, requests, bound)
    # Clopper and Pearson's upper limit of a share with so many alarms keeps within the bound, and with one more does not.
    assert beta.ppf(0.95, allowed + 1, requests - allowed) <= bound < beta.ppf(0.95, allowed + 2, requests - allowed - 1)


@pytest.mark.parametrize(("requests", "bound"), [(298, 0.01), (10, 0.05), (0, 0.5)])
def test_too_few_requests_promise_nothing(requests: int, bound: float) -> None:
    with pytest.raises(ConfigError, match="cannot promise"):
        allowed_alarms(requests, bound, 0.95)


@pytest.mark.parametrize("bound", [0.0, 1.0, -0.1])
def test_a_bound_is_a_share(bound: float) -> None:
    with pytest.raises(ConfigError, match="bound"):
        allowed_alarms(1000, bound, 0.95)


def test_the_promise_is_kept_in_nineteen_of_twenty_cases() -> None:
    """Scores are uniform, so that the false alarms of a threshold are known."""
    rng = random.Random(0)
    requests, bound, kept = 400, 0.03, 0
    allowed = allowed_alarms(requests, bound, 0.95)
    for _ in range(1000):
        scores = sorted((rng.random() for _ in range(requests)), reverse=True)
        kept += 1 - scores[allowed] <= bound
    assert 0.94 <= kept / 1000 <= 0.98


class Scored:
    """A gated model that has read its requests already."""

    def __init__(self, scores: list[float], config: MoguConfig) -> None:
        self._scores, self.gate_config = scores, config.gate

    def score(self, requests: object, *, batch_size: int) -> object:
        import torch

        return torch.tensor(self._scores, dtype=torch.float64)


def test_the_threshold_lets_as_many_alarms_through_as_are_allowed() -> None:
    scores = [number / 1000 for number in range(1000)]
    promise = promised_threshold(Scored(scores, gated_config()), [[]] * 1000, bound=0.02)  # type: ignore[arg-type]
    assert promise.alarms == allowed_alarms(1000, 0.02, 0.95)
    assert (promise.requests, promise.before, promise.alarms_before) == (1000, 0.7, 300)


def test_a_written_promise_is_the_saved_model_s_and_stands_on_its_card(make_base, tmp_path) -> None:
    model, _ = gated_pair(make_base("llama"), gated_config())
    model.stream = None
    model.save_pretrained(tmp_path / "saved")
    promise = Promise(0.3125, 0.7, 0.02, 0.95, 500, 4, 1)
    write_promise(tmp_path / "saved", promise, source="traffic.txt")
    config = json.loads((tmp_path / "saved" / "mogu_config.json").read_text())
    assert (config["gate"]["refuse"], config["gate"]["careful"]) == (0.3125, 0.3125)
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "## Calibrated" in card
    assert "at most 2.00% of benign requests like those of traffic.txt" in card
    assert "4 of its 500 requests" in card
    again = MoguModel.from_pretrained(tmp_path / "saved", base_model=make_base("llama"))
    assert again.mogu_config.gate is not None
    assert again.mogu_config.gate.refuse == 0.3125
