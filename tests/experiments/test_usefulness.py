"""Perplexity and accuracy of a routed model, against a slow one written down term by term."""

from __future__ import annotations

import math

import pytest
import torch

from experiments.usefulness import QUESTIONS, perplexity, read_questions


def test_the_opening_counts_as_routed_and_the_rest_as_the_base_computes_it(make_pair) -> None:
    model, slow = make_pair("llama", torch.float64)
    prompt, answer = [5, 9, 33, 12], [60, 7, 21, 40, 3]

    def losses(logits: torch.Tensor) -> list[float]:
        steps = logits[0].log_softmax(-1)
        return [-float(steps[len(prompt) + place - 1, token]) for place, token in enumerate(answer)]

    ids = torch.tensor([[*prompt, *answer]])
    routed = losses(slow.logits(ids))
    with model.routing("off"):
        base = losses(model(ids).logits)
    found = perplexity(model, [(prompt, answer)], opening=2)
    assert found.hardened == pytest.approx(math.exp(sum([*routed[:2], *base[2:]]) / 5), rel=1e-5)
    assert found.plain == pytest.approx(math.exp(sum(base) / 5), rel=1e-5)
    assert found.hardened_opening == pytest.approx(math.exp(sum(routed[:2]) / 2), rel=1e-5)
    assert found.plain_opening == pytest.approx(math.exp(sum(base[:2]) / 2), rel=1e-5)


def test_every_question_has_four_different_choices() -> None:
    questions = read_questions()
    assert len(questions) == len(QUESTIONS.read_text().splitlines()) - 1 >= 90
    assert all(len(set(choices)) == 4 for _, choices in questions)
    assert len({question for question, _ in questions}) == len(questions)
