"""Gates held against each other, on readings of which only one says anything."""

from __future__ import annotations

import torch

from experiments.gate import LAYERS, VARIANTS, Readings, compare
from mogu.training.gated.prompts import GatePrompt


def readings(seed: int, informative: int) -> Readings:
    """Half of the prompts are malicious; one layer's mean over the prompt shows it, nothing else does."""
    random = torch.Generator().manual_seed(seed)
    prompts = [GatePrompt([{"role": "user", "content": "x"}], "malicious" if number % 2 else "benign") for number in range(200)]
    values = torch.randn(200, len(LAYERS), 3, 4, generator=random)
    values[1::2, LAYERS.index(informative), 1] += 3
    return Readings(values, prompts)


def test_the_gates_that_read_what_says_something_win() -> None:
    found = {"train": readings(0, 23), "dev": readings(1, 23)}
    areas = {row[0]: float(row[1]) for row in compare(found)}
    assert set(areas) == {variant.name for variant in VARIANTS}
    for variant in VARIANTS:
        reads = 23 in variant.taps and "mean" in variant.readings
        assert areas[variant.name] > 0.95 if reads else areas[variant.name] < 0.7
