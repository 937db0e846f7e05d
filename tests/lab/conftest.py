"""The lab's base model, and a MoGU model on it that nobody trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mogu import MoguConfig, MoguModel
from mogu.hub import load_base
from mogu.lab import build_base


@pytest.fixture(scope="session")
def lab_base() -> Path:
    return build_base(progress=False)


@pytest.fixture(scope="session")
def lab_mogu(lab_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its routers are drawn at random, so that prompts have different scores; its responders change nothing."""
    folder, random = tmp_path_factory.mktemp("lab") / "model", torch.Generator().manual_seed(3)
    model = MoguModel.from_base(load_base(str(lab_base)), MoguConfig(rank=4, lora_alpha=8, router_hidden=6))
    for layer in model.routed_layers:
        layer.set_router(torch.randn(2, layer.in_features, generator=random) * 0.3, torch.randn(2, generator=random))
    model.save_pretrained(folder)
    return folder
