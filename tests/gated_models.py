"""Tiny gated models with random experts and gates, and slow ones with the same numbers."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import torch
from transformers import PreTrainedModel

from mogu import MoguConfig, MoguModel
from mogu.modeling.adapter_files import Adapter
from mogu.modeling.config import BackboneConfig, GateConfig
from mogu.modeling.gated.gate import Gate, StreamHead
from mogu.modeling.gated.model import GatedModel
from tests.reference import SlowGated

BEFORE, AFTER = (60,), (61, 62)


def gated_config(**gate: object) -> MoguConfig:
    settings = {"before": BEFORE, "after": AFTER, "refuse": 0.7, "careful": 0.4} | gate
    careful = None if settings["careful"] is None else BackboneConfig(rank=2, lora_alpha=6)
    return MoguConfig(rank=4, lora_alpha=12, routed_tokens="all", gate=GateConfig(**settings), careful=careful)


def randomized(model: GatedModel) -> dict[str, dict[str, SimpleNamespace]]:
    """Give the experts random numbers, strong enough to change what the model says; return the numbers by expert and module."""
    random = torch.Generator().manual_seed(1)
    numbers: dict[str, dict[str, SimpleNamespace]] = {}
    for name in model.mogu_config.responders:
        old = model.injected.responder(name)
        numbers[name] = {}
        for module, (a, b) in old.weights.items():
            a, b = (
                torch.randn(part.shape, generator=random, dtype=torch.float64).mul(32).round() / 64 for part in (a, b)
            )  # exact in float32
            numbers[name][module] = SimpleNamespace(a=a, b=b, scaling=old.lora_alpha / old.rank)
        weights = {module: (n.a, n.b) for module, n in numbers[name].items()}
        model.injected.set_responder(name, Adapter(weights, old.rank, old.lora_alpha, old.fan_in_fan_out))
    return numbers


def gated_pair(base: PreTrainedModel, config: MoguConfig) -> tuple[GatedModel, SlowGated]:
    """Make a gated model of a base model, and the slow one with the same numbers."""
    twin = copy.deepcopy(base)
    model = MoguModel.from_base(base, config)
    assert isinstance(model, GatedModel)
    slow = SlowGated(twin, randomized(model))
    random = torch.Generator().manual_seed(4)
    width = base.config.get_text_config().hidden_size
    vectors = {tap: torch.randn(2 + 2 * 3, width, generator=random) * 0.05 for tap in (0, 1)}
    stream = {1: torch.randn(2, width, generator=random) * 0.1}
    model.set_gate(Gate(vectors, -0.2), StreamHead(stream, 0.3, -0.1))
    return model, slow
