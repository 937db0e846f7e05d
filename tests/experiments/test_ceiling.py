"""Where prompts of a set lie apart in a way that the training prompts never show, only a gate that has seen some of them knows."""

from __future__ import annotations

import pytest
import torch

from experiments.ceiling import rows_of, seen_and_unseen
from experiments.gate import LAYERS, Readings
from mogu.evaluation.prompts import EvalPrompt
from mogu.training.gated.prompts import GatePrompt


def readings(count: int, seed: int, number: int, distance: float) -> Readings:
    """Half of the prompts are malicious, which one of the numbers shows in each of their tokens."""
    random = torch.Generator().manual_seed(seed)
    labels = [index % 2 == 0 for index in range(count)]
    states = [torch.randn(5, len(LAYERS), 6, generator=random) for _ in labels]
    for of_prompt, label in zip(states, labels, strict=True):
        of_prompt[:, :, number] += distance * label
    return Readings(states, [GatePrompt([{"role": "user", "content": "x"}], "malicious" if label else "benign") for label in labels])


def test_what_is_learned_from_the_sets_themselves_shows_what_the_states_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mogu.training.gated.fit._STEPS", 200)  # of six numbers a token
    asked = readings(100, 2, 4, 4.0)
    kinds = ["malicious" if one.malicious else "borderline" for one in asked.prompts]
    prompts = [EvalPrompt.plain(str(index), "set", kind, "x") for index, kind in enumerate(kinds)]  # type: ignore[arg-type]
    found = seen_and_unseen(readings(200, 0, 1, 3.0), readings(100, 1, 1, 3.0), asked.states, asked.malicious)
    rows = {row[0]: row[1:] for row in rows_of(prompts, found)}
    count, unseen, seen = rows["malicious against borderline, area"]
    assert count == "100"
    assert float(unseen) < 0.75
    assert float(seen) > 0.95
    assert float(rows["set, malicious, flagged, %"][2]) > float(rows["set, malicious, flagged, %"][1])
