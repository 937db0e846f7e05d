"""A routed model to and from the saved layout: what of it is written, and what is checked before it takes something over.

Knows routed models and the files of :mod:`mogu.modeling.adapter_files`; knows nothing of prompts or generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mogu.errors import ConfigError, ModelFileError
from mogu.hub import load_base
from mogu.modeling.adapter_files import (
    BACKBONE,
    CARD_FILE,
    CONFIG_FILE,
    RESPONDERS,
    ROUTER_FILE,
    Adapter,
    read_adapter,
    read_routers,
    write_adapter,
    write_routers,
)
from mogu.modeling.architectures import Projection
from mogu.modeling.config import MoguConfig
from mogu.modeling.layers import AdaptedLinear, RoutedLinear, WrappedLinear
from mogu.modeling.model_card import plain_card

Responder = Literal["unwill", "glad"]
Routed = Sequence[tuple[Projection, RoutedLinear]]
"""Each routed projection with the layer that stands in its place."""
Adapted = Sequence[tuple[Projection, AdaptedLinear]]
"""Each linear layer of an adapted backbone with the layer that stands in its place; empty in MoGU V1."""


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


def read_into(routed: Routed, adapted: Adapted, config: MoguConfig, folder: Path) -> None:
    """Read the responders, the routers and the backbone's LoRA of a saved model into its layers.

    Raises:
        ModelFileError: something is missing, broken or of another shape, rank or number of layers.
    """
    adapters = {name: read_adapter(folder / name) for name in RESPONDERS}
    backbone = read_adapter(folder / BACKBONE) if config.backbone is not None else None
    routers = read_routers(folder / ROUTER_FILE, [one.layer for one, _ in routed], routed[0][0].in_features)
    for name, adapter in adapters.items():
        take_responder(routed, config, name, adapter)
    if backbone is not None:
        take_backbone(adapted, config, backbone)
    for projection, layer in routed:
        layer.set_router(*routers[projection.layer])


def write_into(folder: Path, routed: Routed, adapted: Adapted, config: MoguConfig, card: str | None) -> None:
    """Write config, responders, folded routers, the backbone's LoRA and card into a folder that is there."""
    (folder / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
    for name in RESPONDERS:
        _write_lora(folder / name, routed, responder_of(routed, config, name), config)
    write_backbone(folder / BACKBONE, adapted, config)
    write_routers(folder / ROUTER_FILE, {one.layer: layer.folded_router() for one, layer in routed})
    (folder / CARD_FILE).write_text(card or plain_card(config), encoding="utf-8")


def write_backbone(folder: Path, adapted: Adapted, config: MoguConfig) -> None:
    """Write the backbone's LoRA as a PEFT adapter; in MoGU V1, which has none, nothing."""
    adapter = backbone_of(adapted, config)
    if adapter is not None:
        _write_lora(folder, adapted, adapter, config)


def _write_lora(folder: Path, layers: Routed | Adapted, adapter: Adapter, config: MoguConfig) -> None:
    fan_in_fan_out = isinstance(layers[0][0].module, Conv1D)
    write_adapter(folder, adapter, base_model=config.base_model, fan_in_fan_out=fan_in_fan_out)


def responder_of(routed: Routed, config: MoguConfig, name: Responder) -> Adapter:
    """A responder as a LoRA, copied out of the fused layers."""
    return Adapter({one.name: layer.responder(name) for one, layer in routed}, config.rank, config.lora_alpha)


def backbone_of(adapted: Adapted, config: MoguConfig) -> Adapter | None:
    """The backbone's LoRA, copied out of its layers; ``None`` in MoGU V1."""
    if config.backbone is None:
        return None
    return Adapter({one.name: layer.lora() for one, layer in adapted}, config.backbone.rank, config.backbone.lora_alpha)


def take_responder(routed: Routed, config: MoguConfig, name: Responder, adapter: Adapter) -> None:
    """Take over a responder.

    Raises:
        ModelFileError: it was made for another base model: its rank, its scaling, its modules or shapes differ.
    """
    _check_fits(f"{name} responder", adapter, routed, config.rank, config.lora_alpha)
    for projection, layer in routed:
        layer.set_responder(name, *adapter.weights[projection.name])


def take_backbone(adapted: Adapted, config: MoguConfig, adapter: Adapter) -> None:
    """Take over the backbone's LoRA.

    Raises:
        ConfigError: the model is a MoGU V1 model, which has none.
        ModelFileError: it was made for another base model: its rank, its scaling, its modules or shapes differ.
    """
    if config.backbone is None:
        raise ConfigError("The model has no adapted backbone", expected="a MoGU V2 model", action="set backbone in the config")
    _check_fits("backbone's LoRA", adapter, adapted, config.backbone.rank, config.backbone.lora_alpha)
    for projection, layer in adapted:
        layer.set_lora(*adapter.weights[projection.name])


def _check_fits(what: str, adapter: Adapter, layers: Sequence[tuple[Projection, WrappedLinear]], rank: int, lora_alpha: float) -> None:
    if (adapter.rank, adapter.lora_alpha) != (rank, lora_alpha):
        raise ModelFileError(
            f"The {what} has rank {adapter.rank} and alpha {adapter.lora_alpha:g}",
            expected=f"rank {rank} and alpha {lora_alpha:g}",
            action="use the one that belongs to this model, or set rank and lora_alpha in the config",
        )
    names = [projection.name for projection, _ in layers]
    if set(adapter.weights) != set(names):
        raise ModelFileError(
            f"The {what} adapts {len(adapter.weights)} modules ({', '.join(sorted(adapter.weights)[:2])}, …)",
            expected=f"{len(names)} modules ({', '.join(names[:2])}, …)",
            action="use one of this base model",
        )
    for projection, layer in layers:
        lora_a, lora_b = adapter.weights[projection.name]
        if lora_a.shape != (rank, layer.in_features) or lora_b.shape != (layer.out_features, rank):
            raise ModelFileError(
                f"The {what} has A {list(lora_a.shape)} and B {list(lora_b.shape)} for {projection.name}",
                expected=f"A {[rank, layer.in_features]} and B {[layer.out_features, rank]}",
                action="use one of this base model",
            )
