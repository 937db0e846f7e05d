"""A saved MoGU model on the lab's base whose responders and routers are drawn at random. Knows nothing of what is tested with it."""

from __future__ import annotations

from pathlib import Path

import torch

from mogu import MoguConfig, MoguModel
from mogu.hub import load_base


def save_random_model(folder: Path, lab_base: Path, *, strength: float) -> Path:
    """Save the model into a folder; ``strength`` is the standard deviation of all its numbers."""
    model = MoguModel.from_base(load_base(str(lab_base)), MoguConfig(rank=4, lora_alpha=8, router_hidden=6))
    random = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random) * strength

    for layer in model.routed_layers:
        for name in ("unwill", "glad"):
            layer.set_responder(name, draw(4, layer.in_features), draw(layer.out_features, 4))
        layer.set_router(draw(2, layer.in_features), draw(2))
    model.save_pretrained(folder)
    return folder
