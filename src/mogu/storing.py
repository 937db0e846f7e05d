"""A routed model to and from the saved layout: what of it is written, and what is checked before it takes something over.

Knows routed models and the files of :mod:`mogu.saved`; knows nothing of prompts or generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mogu.architectures import Projection
from mogu.card import plain_card
from mogu.config import MoguConfig
from mogu.errors import ConfigError, ModelFileError
from mogu.hub import load_base
from mogu.layers import RoutedLinear
from mogu.saved import CARD_FILE, CONFIG_FILE, RESPONDERS, ROUTER_FILE, Adapter, read_adapter, read_routers, write_adapter, write_routers

Responder = Literal["unwill", "glad"]
Routed = Sequence[tuple[Projection, RoutedLinear]]
"""Each routed projection with the layer that stands in its place."""


def base_for(folder: Path, config: MoguConfig, base_model: PreTrainedModel | str | Path | None, **model_kwargs: Any) -> PreTrainedModel:
    """The base model of a saved model: the one that is given, else loaded from where it is.

    Raises:
        ConfigError: a loaded model was given, and arguments to load one.
        ModelFileError: nothing says which model it is, or it cannot be loaded.
    """
    if isinstance(base_model, PreTrainedModel):
        if model_kwargs:
            raise ConfigError(
                f"A loaded base model was given together with {', '.join(model_kwargs)}",
                expected="model arguments only where from_pretrained loads the base model",
                action="pass them where you load it",
            )
        return base_model
    source = base_name(folder, config, base_model)
    return load_base(source, revision=config.base_revision if base_model is None else None, **model_kwargs)


def base_name(folder: Path, config: MoguConfig, base_model: str | Path | None) -> str:
    """Where the base model of a saved model is: where the caller says, else where it was in training.

    Raises:
        ModelFileError: nothing says it.
    """
    source = str(base_model or config.base_model or "")
    if not source:
        raise ModelFileError(f"{folder} names no base model", expected="its hub id or folder", action="pass base_model=...")
    return source


def read_into(routed: Routed, config: MoguConfig, folder: Path) -> None:
    """Read the responders and routers of a saved model into routed layers.

    Raises:
        ModelFileError: something is missing, broken or of another shape, rank or number of layers.
    """
    adapters = {name: read_adapter(folder / name) for name in RESPONDERS}
    routers = read_routers(folder / ROUTER_FILE, [one.layer for one, _ in routed], routed[0][0].in_features)
    for name, adapter in adapters.items():
        take_responder(routed, config, name, adapter)
    for projection, layer in routed:
        layer.set_router(*routers[projection.layer])


def write_into(folder: Path, routed: Routed, config: MoguConfig, card: str | None) -> None:
    """Write config, responders, folded routers and card into a folder that is there."""
    (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    fan_in_fan_out = isinstance(routed[0][0].module, Conv1D)
    for name in RESPONDERS:
        adapter = responder_of(routed, config, name)
        write_adapter(folder / name, adapter, base_model=config.base_model, fan_in_fan_out=fan_in_fan_out)
    write_routers(folder / ROUTER_FILE, {one.layer: layer.folded_router() for one, layer in routed})
    (folder / CARD_FILE).write_text(card or plain_card(config), encoding="utf-8")


def responder_of(routed: Routed, config: MoguConfig, name: Responder) -> Adapter:
    """A responder as a LoRA, copied out of the fused layers."""
    return Adapter({one.name: layer.responder(name) for one, layer in routed}, config.rank, config.lora_alpha)


def take_responder(routed: Routed, config: MoguConfig, name: Responder, adapter: Adapter) -> None:
    """Take over a responder.

    Raises:
        ModelFileError: it was made for another base model: its rank, its scaling, its modules or shapes differ.
    """
    if (adapter.rank, adapter.lora_alpha) != (config.rank, config.lora_alpha):
        raise ModelFileError(
            f"The {name} responder has rank {adapter.rank} and alpha {adapter.lora_alpha:g}",
            expected=f"rank {config.rank} and alpha {config.lora_alpha:g}",
            action="use the responder that belongs to this model, or set rank and lora_alpha in the config",
        )
    names = [projection.name for projection, _ in routed]
    if set(adapter.weights) != set(names):
        raise ModelFileError(
            f"The {name} responder adapts {len(adapter.weights)} modules ({', '.join(sorted(adapter.weights)[:2])}, …)",
            expected=f"{len(names)} modules ({', '.join(names[:2])}, …)",
            action="use a responder of this base model",
        )
    for projection, layer in routed:
        lora_a, lora_b = adapter.weights[projection.name]
        if lora_a.shape != (config.rank, layer.in_features) or lora_b.shape != (layer.out_features, config.rank):
            raise ModelFileError(
                f"The {name} responder has A {list(lora_a.shape)} and B {list(lora_b.shape)} for {projection.name}",
                expected=f"A {[config.rank, layer.in_features]} and B {[layer.out_features, config.rank]}",
                action="use a responder of this base model",
            )
        layer.set_responder(name, lora_a, lora_b)
