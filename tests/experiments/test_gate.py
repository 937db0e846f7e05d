"""Gates held against each other, on prompts in which one layer's tokens say something, and nothing else does."""

from __future__ import annotations

import pytest
import torch

from experiments.gate import LAYERS, VARIANTS, Readings, compare
from mogu.training.gated.prompts import GatePrompt


def readings(seed: int, informative: int) -> Readings:
    """A third of the prompts are malicious; the tokens of the user's in one layer show it, neither the last ones nor another layer do."""
    random = torch.Generator().manual_seed(seed)
    prompts = [GatePrompt([{"role": "user", "content": "x"}], "malicious" if number % 3 == 0 else "benign") for number in range(240)]
    states = [torch.randn(6, len(LAYERS), 4, generator=random) for _ in prompts]
    for of_prompt, prompt in zip(states, prompts, strict=True):
        of_prompt[:4, LAYERS.index(informative)] += 3 * prompt.malicious
    return Readings(states, prompts)


def test_the_gates_that_read_what_says_something_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mogu.training.gated.fit._STEPS", 200)  # of four numbers a token
    dev = readings(1, 23)
    malicious = [index for index, prompt in enumerate(dev.prompts) if prompt.malicious]
    first = Readings([dev.states[index] for index in malicious] * 2, [dev.prompts[index] for index in malicious] * 2)
    tried = [variant for variant in VARIANTS if variant.heads <= 1 or "layer" in variant.name or "default" in variant.name]
    found = compare({"train": readings(0, 23), "dev": dev, "first": first}, tried)
    assert all(row[-2:] == ["100", "100"] for row in found)  # the very same prompts again: what is flagged stays so
    areas = {row[0]: float(row[1]) for row in found}
    assert len(areas) == len(tried) == 7
    for variant in tried:
        reads = 23 in variant.taps and (variant.heads or "mean" in variant.readings)
        assert areas[variant.name] > 0.95 if reads else areas[variant.name] < 0.7
