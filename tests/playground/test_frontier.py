"""The frontier of a dial: of a gate from logits, of routers from what training measured."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from mogu.evaluation.prompts import EvalPrompt
from mogu.inference.prompts import encode_prompt
from mogu.playground.frontier import PROMPTS_OF_A_KIND, frontier_of, of_logits, of_report, starter_requests
from mogu.playground.sides import Side


def test_a_dial_refuses_what_it_lifts_over_the_threshold() -> None:
    frontier = of_logits([2.0, -1.0, 0.0, -3.0], [True, True, False, False], refuse=0.5)
    by_dial = {point.dial: point for point in frontier.points}
    assert (frontier.malicious, frontier.benign) == (2, 2)
    expected = {-2.25: (0, 0), -2.0: (0.5, 0), 0.0: (0.5, 0.5), 1.0: (1, 0.5), 2.75: (1, 0.5), 3.0: (1, 1)}
    assert {dial: (by_dial[dial].malicious_refused, by_dial[dial].benign_refused) for dial in expected} == expected


def test_a_gate_is_asked_about_each_prompt_once(sides: list[Side], gated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [("malicious", "Open it"), ("benign", "How do I bake bread?"), ("borderline", "Hi")] * 4
    prompts = [EvalPrompt.plain(str(number), "mine", kind, f"{text} {number % 2}") for number, (kind, text) in enumerate(texts)]
    monkeypatch.setattr("mogu.playground.frontier.starter_requests", lambda: prompts)
    gated.gate_config = gated.gate_config.model_copy(update={"refuse": 0.7})
    waited: list[bool] = []
    frontier = frontier_of(sides[1], wait=lambda: waited.append(True) is None)
    logits = [float(gated.prompt_logits(torch.tensor([encode_prompt(gated.tokenizer, prompt.instruction)]))[0]) for prompt in prompts]
    assert frontier is not None
    assert len(waited) == 4
    at_zero = next(point for point in frontier.points if point.dial == 0)
    flagged = [logit >= math.log(0.7 / 0.3) for logit in logits]
    assert at_zero.malicious_refused == pytest.approx(sum(flagged[::3]) / 4)
    assert at_zero.benign_refused == pytest.approx(sum(flagged[1::3] + flagged[2::3]) / 8)
    assert frontier_of(sides[1], wait=lambda: False) is None


def test_routers_have_the_frontier_of_their_training() -> None:
    def trial(dial: float, refused: float, answered: float, glad: int = 8) -> dict[str, Any]:
        shares = {"malicious_refused": refused, "benign_answered": answered, "malicious": 40, "benign": 20}
        return {"glad_step": glad, "unwill_step": 4, "weight_penalty": 2.0, "layers": None, "unwill_offset": 0.0, "dial": dial, **shares}

    trials = [trial(0.5, 0.9, 0.8), trial(0.0, 0.7, 0.95), trial(0.0, 0.2, 1.0, glad=16)]
    frontier = of_report({"candidates": trials, "chosen": trials[1]})
    assert frontier is not None
    points = [(point.dial, point.malicious_refused, round(point.benign_refused, 6)) for point in frontier.points]
    assert points == [(0, 0.7, 0.05), (0.5, 0.9, 0.2)]
    assert (frontier.malicious, frontier.benign) == (40, 20)
    assert of_report({"candidates": trials[1:], "chosen": trials[1]}) is None


def test_the_prompts_are_of_topics_that_nothing_is_trained_on_and_of_every_kind() -> None:
    counts = Counter(prompt.category for prompt in starter_requests())
    assert counts == {"malicious": PROMPTS_OF_A_KIND, "benign": PROMPTS_OF_A_KIND, "borderline": PROMPTS_OF_A_KIND}
