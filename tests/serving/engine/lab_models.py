"""Where the reference vectors are, and models on the lab's base that are made to differ, not to defend."""

from __future__ import annotations

from pathlib import Path

import torch

from mogu import MoguConfig, MoguModel
from mogu.hub import load_base
from mogu.modeling.adapter_files import Adapter
from mogu.modeling.config import BackboneConfig

VECTORS = Path(__file__).parents[4] / "shared" / "reference-vectors" / "llama"


def hardened(base: str, folder: Path, seed: int, layers: list[int] | None = None, backbone: BackboneConfig | None = None) -> Path:
    """A saved model on the lab's base that answers unlike it, and differently for every token: a strict test, not a defense."""
    generator = torch.Generator().manual_seed(seed)
    model = MoguModel.from_base(load_base(base), MoguConfig(base_model=base, layers=layers, backbone=backbone))

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    for layer in model.routed_layers:
        for name in ("unwill", "glad"):
            layer.set_responder(name, randn(8, layer.in_features) * 0.2, randn(layer.out_features, 8) * 0.2)
        layer.set_router(randn(2, layer.in_features) * 0.5, randn(2))
    lora = model.backbone()
    if lora is not None:
        weights = {name: (randn(*a.shape) * 0.2, randn(*b.shape) * 0.2) for name, (a, b) in lora.weights.items()}
        model.set_backbone(Adapter(weights, lora.rank, lora.lora_alpha))
    model.save_pretrained(folder)
    return folder
