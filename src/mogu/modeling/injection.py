"""Putting routed and adapted layers into a base model in the place of its linear layers, and taking them out again.

Knows modules, shapes and LoRAs; knows nothing of folders, prompts or generation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from mogu.errors import ConfigError, ModelFileError
from mogu.hub import has_adapter
from mogu.hub.quantization import transposed
from mogu.modeling.adapter_files import Adapter
from mogu.modeling.architectures import Projection, compute_device, compute_dtype, find_backbone, find_output_projections
from mogu.modeling.config import BaseShape, MoguConfig, Responder
from mogu.modeling.layers import AdaptedLinear, RoutedLinear, WrappedLinear
from mogu.modeling.routing import RoutingScope


@dataclass(frozen=True)
class InjectedLayers:
    """The layers that a base model was given, each with the projection that it stands for.

    Args:
        routed: routed attention output projections, in layer order.
        adapted: the adapted linear layers of a backbone; empty in MoGU V1.
        config: rank and scaling of their LoRAs.
    """

    routed: tuple[tuple[Projection, RoutedLinear], ...]
    adapted: tuple[tuple[Projection, AdaptedLinear], ...]
    config: MoguConfig

    @property
    def projections(self) -> list[Projection]:
        """What was replaced, all of it."""
        return [projection for projection, _ in (*self.routed, *self.adapted)]

    def responder(self, name: Responder) -> Adapter:
        """A responder as a LoRA, copied out of the fused layers."""
        weights = {projection.name: layer.responder(name) for projection, layer in self.routed}
        return Adapter(weights, self.config.rank, self.config.lora_alpha, self._fan_in_fan_out)

    def set_responder(self, name: Responder, adapter: Adapter) -> None:
        """Take over a responder.

        Raises:
            ModelFileError: it was made for another base model: its rank, its scaling, its modules or shapes differ.
        """
        check_fits(f"{name} responder", adapter, self.routed, self.config.rank, self.config.lora_alpha)
        for projection, layer in self.routed:
            layer.set_responder(name, *adapter.weights[projection.name])

    def backbone(self) -> Adapter | None:
        """The backbone's LoRA, copied out of its layers; ``None`` in MoGU V1."""
        if self.config.backbone is None:
            return None
        weights = {projection.name: layer.lora() for projection, layer in self.adapted}
        return Adapter(weights, self.config.backbone.rank, self.config.backbone.lora_alpha, self._fan_in_fan_out)

    def set_backbone(self, adapter: Adapter) -> None:
        """Take over the backbone's LoRA.

        Raises:
            ConfigError: the model is a MoGU V1 model, which has none.
            ModelFileError: it was made for another base model: its rank, its scaling, its modules or shapes differ.
        """
        if self.config.backbone is None:
            raise ConfigError("The model has no adapted backbone", expected="a MoGU V2 model", action="set backbone in the config")
        check_fits("backbone's LoRA", adapter, self.adapted, self.config.backbone.rank, self.config.backbone.lora_alpha)
        for projection, layer in self.adapted:
            layer.set_lora(*adapter.weights[projection.name])

    def routers(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Folded routers by decoder layer: ``vectors [2, d_in]`` and ``biases [2]``, unwill first, float32."""
        return {projection.layer: layer.folded_router() for projection, layer in self.routed}

    def set_routers(self, routers: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        """Take over folded routers of all routed layers.

        Raises:
            ModelFileError: they are those of other layers, or of another width.
        """
        widths = {projection.layer: projection.in_features for projection, _ in self.routed}
        missing = sorted(set(widths) - set(routers))
        wrong = [layer for layer, (vectors, _) in routers.items() if vectors.shape != (2, widths.get(layer))]
        if missing or wrong:
            layer = (missing or wrong)[0]
            what = "nothing" if missing else f"weight {list(routers[layer][0].shape)}"
            width = f"weight [2, {widths[layer]}]" if layer in widths else "nothing, as it is not routed"
            raise ModelFileError(
                f"The saved routers hold {what} for layer {layer}",
                expected=f"{len(widths)} routers, one a routed layer, and for this one {width}",
                action="use the router that was saved with this model",
            )
        for projection, routed in self.routed:
            routed.set_router(*routers[projection.layer])

    def start_router_training(self) -> None:
        """Put freshly initialized trainable routers of the config's kind in the place of the folded ones.

        The LoRA of the backbone, where there is one, begins again as well: it is trained together with the routers.
        """
        for _, adapted in self.adapted:
            adapted.start_training()
        for _, routed in self.routed:
            routed.start_router_training(self.config.router, self.config.router_hidden)

    def finish_router_training(self) -> None:
        """Fold the trained routers, freeze the LoRA of the backbone, and let go of their trainable form."""
        for _, adapted in self.adapted:
            adapted.finish_training()
        for _, routed in self.routed:
            routed.finish_router_training()

    def added_parameters(self) -> int:
        """How many parameters the layers add to the base model.

        ``Σ (2r + 2)·d_in + 2r·d_out + 2`` over routed layers, and ``Σ r_b·(d_in + d_out)`` over the adapted layers of MoGU V2.
        """
        routed = sum(layer.down.numel() + layer.up.numel() + layer.router_bias.numel() for _, layer in self.routed)
        return routed + sum(layer.down.numel() + layer.up.numel() for _, layer in self.adapted)

    @property
    def _fan_in_fan_out(self) -> bool:
        return transposed(self.routed[0][0].module)


_OURS = re.compile(r"\.(?:routers|experts)\.")
"""What parts the name of a wrapped layer from that of something in it that is not the base model's."""


def base_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of a base model under their own names, whether layers have been put into it or not."""
    injected = {name for name, module in model.named_modules() if isinstance(module, WrappedLinear)}
    for name, parameter in model.named_parameters():
        parent = name.rpartition(".")[0]
        if parent not in injected and _OURS.split(name)[0] not in injected:
            yield name.replace(".base_layer.", "."), parameter


def find_projections(base_model: PreTrainedModel, config: MoguConfig) -> list[Projection]:
    """The projections of a plain base model that a config wants routed.

    Raises:
        ArchitectureError: they cannot be found.
        ConfigError: the model is routed already, or its projections are too narrow for the rank.
        ModelFileError: the base model does not have the shape that ``config`` was made for.
    """
    if any(isinstance(module, WrappedLinear) for module in base_model.modules()):
        raise ConfigError("The base model is routed already", expected="a plain base model", action="call detach() on the old MoguModel")
    if has_adapter(base_model):
        raise ConfigError(
            "The base model has an adapter of PEFT in it, which a saved model could not find again",
            expected="a whole model",
            action="merge the adapter first: model.merge_and_unload(), then save_pretrained()",
        )
    projections = find_output_projections(base_model, config.output_projection, config.layers)
    _check_shape(base_model, config)
    check_rank(projections, config.rank)
    return projections


def find_adapted(base_model: PreTrainedModel, config: MoguConfig, projections: Sequence[Projection]) -> list[Projection]:
    """The linear layers of a plain base model that a config wants adapted: those of the routed decoder layers, or none.

    Raises:
        ArchitectureError: they cannot be found.
        ConfigError: they are too narrow for the rank.
    """
    if config.backbone is None:
        return []
    modules = find_backbone(base_model, [projection.layer for projection in projections], config.backbone.modules)
    check_rank(modules, config.backbone.rank)
    return modules


def inject(base_model: PreTrainedModel, config: MoguConfig, scope: RoutingScope) -> InjectedLayers:
    """Put routed layers, and in MoGU V2 adapted ones, into a plain base model; they share one scope.

    Raises:
        ArchitectureError: the projections cannot be found.
        ConfigError: the model is routed already, or its projections are too narrow for the rank.
        ModelFileError: the base model does not have the shape that ``config`` was made for.
    """
    projections = find_projections(base_model, config)
    modules = find_adapted(base_model, config, projections)
    adapted = []
    for module in modules:
        assert config.backbone is not None  # there are modules only where there is a backbone
        dtype, device = compute_dtype(module.module, base_model), compute_device(module.module)
        layer = AdaptedLinear(module.module, module.in_features, module.out_features, config.backbone, scope, dtype=dtype, device=device)
        put_module(base_model, module.name, layer)
        adapted.append((module, layer))
    routed = []
    for projection in projections:
        routed_layer = RoutedLinear(
            base_model.get_submodule(projection.name),  # in MoGU V2 what has just been put in its place
            projection.in_features,
            projection.out_features,
            config,
            scope,
            dtype=compute_dtype(projection.module, base_model),
            device=compute_device(projection.module),
        )
        put_module(base_model, projection.name, routed_layer)
        routed.append((projection, routed_layer))
    return InjectedLayers(tuple(routed), tuple(adapted), config)


def remove(base_model: PreTrainedModel, injected: InjectedLayers) -> None:
    """Put the plain layers back."""
    for projection in injected.projections:
        put_module(base_model, projection.name, projection.module)


def put_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module into a model under a full name, in the place of the one that is there."""
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def shape_of(model: PreTrainedModel) -> BaseShape:
    """The shape by which a base model is known again."""
    text_config = model.config.get_text_config()
    return BaseShape(model_type=model.config.model_type, layers=text_config.num_hidden_layers, width=text_config.hidden_size)


def _check_shape(model: PreTrainedModel, config: MoguConfig) -> None:
    shape = shape_of(model)
    if config.base_shape is not None and config.base_shape != shape:
        trained_on = config.base_shape
        raise ModelFileError(
            f"The base model is a {shape.model_type} of {shape.layers} layers and width {shape.width}",
            expected=f"the base model of training: a {trained_on.model_type} of {trained_on.layers} layers and width {trained_on.width}",
            action=f"load {config.base_model or 'that model'}, or pass another base_model",
        )


def check_rank(projections: Sequence[Projection], rank: int) -> None:
    """Refuse LoRAs of a higher rank than the layers that they are beside.

    Raises:
        ConfigError: a projection is too narrow.
    """
    narrowest = min(min(projection.in_features, projection.out_features) for projection in projections)
    if rank > narrowest:
        raise ConfigError(
            f"The config asks for LoRA of rank {rank} on layers of width {narrowest}",
            expected=f"a rank of at most {narrowest}",
            action="choose a smaller rank (8 is the published one), or check that this is the right base model",
        )


def check_fits(what: str, adapter: Adapter, layers: Sequence[tuple[Projection, WrappedLinear]], rank: int, lora_alpha: float) -> None:
    """Refuse a LoRA that was made for other layers.

    Raises:
        ModelFileError: its rank, its scaling, its modules or shapes differ; ``what`` names it.
    """
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
