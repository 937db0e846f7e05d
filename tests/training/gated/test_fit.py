"""Fitting a gate against scikit-learn's logistic regression and against readings taken from hidden states one prompt at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mogu.inference.turns import TurnMarks
from mogu.modeling.gated.gate import Gate
from mogu.modeling.gated.injection import _Ear
from mogu.training.gated.fit import calibrated, default_taps, fit_gate, fit_logistic, gate_logits, read_prompts, threshold_at

pytestmark = pytest.mark.core

MARKS = TurnMarks((60,), (61, 62))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mistral"])
@pytest.mark.parametrize("system", [[], [7, 8, 9, 10, 11]])
def test_what_is_read_of_prompts_is_what_the_model_hands_upward(make_base, family, system):
    base = make_base(family)
    random = torch.Generator().manual_seed(0)
    prompts = [[1, *system, 60, *torch.randint(3, 59, (count,), generator=random).tolist(), 61, 62] for count in (3, 9, 4, 6)]
    readings = read_prompts(base, prompts, taps=[0, 1], marks=MARKS, pad_token_id=0, batch_size=3)
    assert readings.shape == (4, 2, 3, 32)
    assert not any(isinstance(hook, _Ear) for module in base.modules() for hook in module._forward_hooks.values())
    for prompt, found in zip(prompts, readings, strict=True):
        with torch.no_grad():
            states = base(input_ids=torch.tensor([prompt]), output_hidden_states=True).hidden_states
        for index, tap in enumerate((0, 1)):
            h = states[tap + 1][0]
            expected = torch.stack([h[-1], h[2 + len(system) : -2].mean(0), h[-3]]).float()
            assert torch.allclose(found[index], expected, atol=1e-5)


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


def test_a_gate_tells_what_can_be_told_apart_and_is_calibrated_on_others():
    random = torch.Generator().manual_seed(1)
    malicious = torch.rand(400, generator=random) < 0.4
    readings = torch.randn(400, 2, 3, 8, generator=random) * torch.tensor([1.0, 30.0])[:, None, None]
    readings[malicious, 0, 1] += 1.2
    gate = fit_gate(readings[:200], malicious[:200], [3, 5], l2=0.01)
    logits = gate_logits(gate, readings[200:])
    assert gate.taps == (3, 5)
    assert ((logits > 0) == malicious[200:]).float().mean() > 0.85
    # Logits that are ten times as sure as they may be become as sure as they may be.
    bold = Gate({tap: vectors * 10 for tap, vectors in gate.vectors.items()}, gate.bias * 10 + 4)
    again = calibrated(bold, gate_logits(bold, readings[200:]), malicious[200:])
    fitted = gate_logits(again, readings[200:])
    reference, _ = fit_logistic(fitted[:, None], malicious[200:], l2=0.0)
    assert float(reference[0]) == pytest.approx(1.0, abs=1e-2)
    assert torch.equal(fitted.argsort(), gate_logits(bold, readings[200:]).argsort())


def test_a_gate_that_is_worse_than_chance_is_not_turned_round():
    gate = Gate({0: torch.ones(3, 2)}, 0.0)
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
