"""Fitting a gate against scikit-learn's logistic regression, and on prompts of which one token tells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mogu.modeling.gated.gate import Gate
from mogu.training.gated.fit import calibrated, default_taps, fit_gate, fit_logistic, gate_logits, threshold_at

pytestmark = pytest.mark.core


def test_a_logistic_regression_is_scikit_learn_s():
    random = np.random.default_rng(0)
    features = random.normal(size=(200, 6))
    truth = features @ np.array([1.0, -2.0, 0.5, 0, 0, 1.0]) + random.normal(size=200) > 0.8
    l2 = 0.02
    each = np.where(truth, 1 / (2 * truth.sum()), 1 / (2 * (~truth).sum()))
    # It minimizes C·Σ w_i·loss_i + ½‖w‖²: ours divided by 2·l2.
    reference = LogisticRegression(C=1 / (2 * l2), tol=1e-10, max_iter=5000).fit(features, truth, sample_weight=each)
    weights, bias = fit_logistic(torch.from_numpy(features), torch.from_numpy(truth), l2=l2)
    assert weights.tolist() == pytest.approx(reference.coef_[0].tolist(), abs=1e-4)
    assert float(bias) == pytest.approx(float(reference.intercept_[0]), abs=1e-4)


def needles(count: int, tokens: tuple[int, int]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Prompts of which the malicious ones hold one telling token, wherever it stands; as likely a decoy stands in any of them."""
    random = torch.Generator().manual_seed(1)
    malicious = torch.rand(count, generator=random) < 0.4
    prompts = []
    for label in malicious.tolist():
        length = int(torch.randint(*tokens, (1,), generator=random))
        states = torch.randn(length + 1, 2, 8, generator=random) * torch.tensor([1.0, 30.0])[:, None]
        if label:
            states[int(torch.randint(length, (1,), generator=random)), 0, 1:5] += 4.0  # in several numbers, as models have it
        prompts.append(states)
    return prompts, malicious


def test_a_gate_finds_one_telling_token_in_a_long_prompt_where_a_mean_over_it_does_not():
    states, malicious = needles(1000, (10, 60))
    gate = fit_gate(states[:800], malicious[:800], [3, 5], heads=2, l2=0.001)
    assert (gate.taps, gate.heads) == ((3, 5), 2)
    right = (gate_logits(gate, states[800:]) > 0) == malicious[800:]
    assert right.float().mean() > 0.95
    means = np.stack([of_prompt[:-1].mean(0).flatten().numpy() for of_prompt in states])
    linear = LogisticRegression(max_iter=5000).fit(means[:800], malicious[:800].numpy())
    assert linear.score(means[800:], malicious[800:].numpy()) < 0.85


def test_the_mean_of_several_gates_is_one_gate():
    states, malicious = needles(1200, (10, 60))
    several = fit_gate(states[:300], malicious[:300], [3, 5], heads=1, l2=0.001, members=8)
    assert several.heads == 8
    assert ((gate_logits(several, states[300:]) > 0) == malicious[300:]).float().mean() > 0.95
    # One gate of several heads says what the gates that it is the mean of say on average.
    parts = [
        Gate(
            {tap: torch.cat([rows[:2], rows[2 + head, None], 8 * rows[10 + head, None]]) for tap, rows in several.vectors.items()},
            several.bias,
        )
        for head in range(8)
    ]
    mean = torch.stack([gate_logits(part, states[300:320]) for part in parts]).mean(0)
    assert torch.allclose(mean, gate_logits(several, states[300:320]), atol=1e-4)


def test_the_same_prompts_give_the_same_gate():
    states, malicious = needles(60, (3, 9))
    first, second = (fit_gate(states, malicious, [3, 5], heads=2, l2=0.01, members=2) for _ in range(2))
    assert first.bias == second.bias
    assert all(torch.equal(first.vectors[tap], second.vectors[tap]) for tap in (3, 5))


def test_logits_become_as_sure_as_they_may_be():
    states, malicious = needles(400, (5, 9))
    gate = fit_gate(states[:200], malicious[:200], [3, 5], heads=2, l2=0.01)
    logits = gate_logits(gate, states[200:])
    bold = gate.scaled(10.0, 4.0)
    assert torch.allclose(gate_logits(bold, states[200:]), 10 * logits + 4, atol=1e-3)
    fitted = gate_logits(calibrated(bold, gate_logits(bold, states[200:]), malicious[200:]), states[200:])
    reference, _ = fit_logistic(fitted[:, None], malicious[200:], l2=0.0)
    assert float(reference[0]) == pytest.approx(1.0, abs=1e-2)
    assert float(torch.corrcoef(torch.stack([fitted, logits]))[0, 1]) > 0.9999


def test_a_gate_that_is_worse_than_chance_is_not_turned_round():
    gate = Gate({0: torch.ones(4, 2)}, 0.0)
    upside_down = calibrated(gate, torch.tensor([3.0, 2.0, -1.0, -2.0]), torch.tensor([False, False, True, True]))
    assert float(upside_down.vectors[0][0, 0]) > 0


@pytest.mark.parametrize(("share", "reached"), [(0.0, 0), (0.1, 1), (0.25, 2), (0.9, 9), (1.0, 10)])
def test_a_threshold_lets_a_share_of_the_benign_through(share, reached):
    probabilities = torch.tensor([0.1, 0.9, 0.3, 0.5, 0.7, 0.2, 0.4, 0.6, 0.8, 0.95])
    threshold = threshold_at(probabilities, share)
    assert int((probabilities >= threshold).sum()) == reached


def test_ties_are_not_let_through_in_part():
    assert int((torch.tensor([0.5] * 10) >= threshold_at(torch.tensor([0.5] * 10), 0.3)).sum()) == 0


def test_default_taps_are_in_the_middle_and_at_four_fifths():
    assert default_taps(30) == [15, 23]
    assert default_taps(32) == [16, 24]
    assert default_taps(2) == [0, 1]
    assert default_taps(1) == [0]
