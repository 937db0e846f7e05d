"""Putting routed and adapted layers into a base model in the place of its linear layers, and taking them out again.

Knows modules and shapes; knows nothing of files, prompts or generation.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from mogu.errors import ConfigError, ModelFileError
from mogu.modeling.architectures import Projection, compute_device, compute_dtype, find_backbone, find_output_projections
from mogu.modeling.config import BackboneConfig, BaseShape, MoguConfig
from mogu.modeling.layers import AdaptedLinear, RoutedLinear, WrappedLinear
from mogu.modeling.routing import RoutingScope


def find_projections(base_model: PreTrainedModel, config: MoguConfig) -> list[Projection]:
    """The projections of a plain base model that a config wants routed.

    Raises:
        ArchitectureError: they cannot be found.
        ConfigError: the model is routed already, or its projections are too narrow for the rank.
        ModelFileError: the base model does not have the shape that ``config`` was made for.
    """
    if any(isinstance(module, WrappedLinear) for module in base_model.modules()):
        raise ConfigError("The base model is routed already", expected="a plain base model", action="call detach() on the old MoguModel")
    projections = find_output_projections(base_model, config.output_projection, config.layers)
    _check_shape(base_model, config)
    _check_rank(projections, config.rank)
    return projections


def find_adapted(base_model: PreTrainedModel, config: MoguConfig, projections: Sequence[Projection]) -> list[Projection]:
    """The linear layers of a plain base model that a config wants adapted: those of the routed decoder layers, or none.

    Raises:
        ArchitectureError: they cannot be found.
        ConfigError: they are too narrow for the rank.
    """
    if config.backbone is None:
        return []
    modules = find_backbone(base_model, [one.layer for one in projections], config.backbone.modules)
    _check_rank(modules, config.backbone.rank)
    return modules


def adapt(base_model: PreTrainedModel, modules: Sequence[Projection], config: BackboneConfig, scope: RoutingScope) -> list[AdaptedLinear]:
    """Put an adapted layer around each linear layer; all of them share one scope."""
    layers = []
    for one in modules:
        dtype, device = compute_dtype(one.module, base_model), compute_device(one.module)
        layer = AdaptedLinear(one.module, one.in_features, one.out_features, config, scope, dtype=dtype, device=device)
        _put(base_model, one.name, layer)
        layers.append(layer)
    return layers


def route(base_model: PreTrainedModel, projections: Sequence[Projection], config: MoguConfig, scope: RoutingScope) -> list[RoutedLinear]:
    """Put a routed layer around each projection, or around what has been put in its place; all of them share one scope."""
    layers = []
    for projection in projections:
        layer = RoutedLinear(
            base_model.get_submodule(projection.name),
            projection.in_features,
            projection.out_features,
            config,
            scope,
            dtype=compute_dtype(projection.module, base_model),
            device=compute_device(projection.module),
        )
        _put(base_model, projection.name, layer)
        layers.append(layer)
    return layers


def unwrap(base_model: PreTrainedModel, projections: Sequence[Projection]) -> None:
    """Put the plain layers back."""
    for projection in projections:
        _put(base_model, projection.name, projection.module)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def shape_of(model: PreTrainedModel) -> BaseShape:
    """The shape by which a base model is known again."""
    text_config = model.config.get_text_config()
    return BaseShape(model_type=model.config.model_type, layers=text_config.num_hidden_layers, width=text_config.hidden_size)


def _check_shape(model: PreTrainedModel, config: MoguConfig) -> None:
    found = shape_of(model)
    if config.base_shape is not None and config.base_shape != found:
        wanted = config.base_shape
        raise ModelFileError(
            f"The base model is a {found.model_type} of {found.layers} layers and width {found.width}",
            expected=f"the base model it was trained on: a {wanted.model_type} of {wanted.layers} layers and width {wanted.width}",
            action=f"load {config.base_model or 'that model'}, or pass another base_model",
        )


def _check_rank(projections: Sequence[Projection], rank: int) -> None:
    narrowest = min(min(projection.in_features, projection.out_features) for projection in projections)
    if rank > narrowest:
        raise ConfigError(
            f"The config asks for LoRA of rank {rank} on layers of width {narrowest}",
            expected=f"a rank of at most {narrowest}",
            action="choose a smaller rank (8 is the published one), or check that this is the right base model",
        )
