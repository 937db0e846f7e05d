"""Putting the experts of a gated model beside the linear layers of a base model, and ears on the layers that its gate hears.

Knows modules, shapes and LoRAs; knows nothing of folders, prompts or generation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mogu.errors import ModelFileError
from mogu.modeling.adapter_files import Adapter
from mogu.modeling.architectures import Projection, compute_device, compute_dtype, decoder_layer_name, find_backbone
from mogu.modeling.config import MoguConfig, Responder
from mogu.modeling.gated.experts import Expert, ExpertLinear
from mogu.modeling.injection import InjectedLayers, check_fits, check_rank, find_projections, put_module
from mogu.modeling.routing import RoutingScope, current_controller


@dataclass(frozen=True)
class InjectedExperts(InjectedLayers):
    """The expert layers that a base model was given; it has no routed and no adapted ones.

    Args:
        experts: of each responder, the projections that it is beside, with the layers that stand for them.
    """

    experts: Mapping[Responder, tuple[tuple[Projection, ExpertLinear], ...]] = field(default_factory=dict)

    @property
    def projections(self) -> list[Projection]:
        """What was replaced, all of it."""
        return list({projection.name: projection for layers in self.experts.values() for projection, _ in layers}.values())

    def responder(self, name: Responder) -> Adapter:
        """A responder as a LoRA, copied out of its layers."""
        rank, alpha = expert_shape(self.config, name)
        weights = {projection.name: _expert(layer, name).lora() for projection, layer in self.experts[name]}
        return Adapter(weights, rank, alpha, isinstance(self.experts[name][0][0].module, Conv1D))

    def set_responder(self, name: Responder, adapter: Adapter) -> None:
        """Take over a responder.

        Raises:
            ModelFileError: it was made for another base model: its rank, its scaling, its modules or shapes differ.
        """
        check_fits(f"{name} responder", adapter, self.experts[name], *expert_shape(self.config, name))
        for projection, layer in self.experts[name]:
            _expert(layer, name).set_lora(*adapter.weights[projection.name])

    def set_routers(self, routers: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        """Take over no routers: a gated model has none.

        Raises:
            ModelFileError: there are some.
        """
        if routers:
            raise ModelFileError(
                f"The saved model holds {len(routers)} routers beside its gate", expected="a gate alone", action="copy the folder again"
            )

    def added_parameters(self) -> int:
        """How many parameters the experts add to the base model: ``Σ r·(d_in + d_out)``; a gate's few come on top."""
        experts = (_expert(layer, name) for name, layers in self.experts.items() for _, layer in layers)
        return sum(expert.down.numel() + expert.up.numel() for expert in experts)


def find_expert_modules(base_model: PreTrainedModel, config: MoguConfig) -> dict[Responder, list[Projection]]:
    """The linear layers of a plain base model that each responder of a config is beside.

    Raises:
        ArchitectureError: they cannot be found.
        ConfigError: the model is routed already, or its projections are too narrow for the rank.
        ModelFileError: the base model does not have the shape that ``config`` was made for.
    """
    outputs = find_projections(base_model, config)
    modules: dict[Responder, list[Projection]] = {"unwill": outputs}
    if config.careful is not None:
        modules["careful"] = find_backbone(base_model, [projection.layer for projection in outputs], config.careful.modules)
        check_rank(modules["careful"], config.careful.rank)
    return modules


def inject_experts(base_model: PreTrainedModel, config: MoguConfig, scope: RoutingScope) -> InjectedExperts:
    """Put expert layers into a plain base model; they share one scope.

    Raises:
        ArchitectureError: the projections cannot be found.
        ConfigError: the model is routed already, or its projections are too narrow for the rank.
        ModelFileError: the base model does not have the shape that ``config`` was made for.
    """
    modules = find_expert_modules(base_model, config)
    layers: dict[str, ExpertLinear] = {}
    for name, projections in modules.items():
        rank, alpha = expert_shape(config, name)
        for projection in projections:
            if projection.name not in layers:
                layer = ExpertLinear(projection.module, projection.in_features, projection.out_features, scope)
                put_module(base_model, projection.name, layer)
                layers[projection.name] = layer
            dtype, device = compute_dtype(projection.module, base_model), compute_device(projection.module)
            layers[projection.name].experts[name] = Expert(
                rank, alpha / rank, projection.in_features, projection.out_features, dtype=dtype, device=device
            )
    placed = {name: tuple((projection, layers[projection.name]) for projection in found) for name, found in modules.items()}
    return InjectedExperts((), (), config, placed)


def listen_at(base_model: PreTrainedModel, scope: RoutingScope, taps: Sequence[int], near: str) -> list[RemovableHandle]:
    """Let the calls of a model hear what some of its decoder layers hand upward; a pass that no call listens to pays one look-up a tap.

    Args:
        base_model: the base model.
        scope: what the layers of one model share.
        taps: indices of the decoder layers.
        near: full name of a module in one of them.

    Returns:
        The handles that remove the ears again.

    Raises:
        ModelFileError: the model has no such layer.
    """
    stack = base_model.get_submodule(decoder_layer_name(near).rpartition(".")[0])
    layers = dict(stack.named_children())
    missing = [tap for tap in taps if str(tap) not in layers]
    if missing:
        raise ModelFileError(
            f"The gate hears layer {missing[0]}, and the base model has {len(layers)} layers",
            expected="the base model that the gate was fitted on",
            action="use the gate that was saved with this model",
        )
    return [layers[str(tap)].register_forward_hook(_Ear(scope, tap)) for tap in taps]


class _Ear:
    """A forward hook that lets the call that listens hear a decoder layer; an object, so that it is copied together with its model."""

    def __init__(self, scope: RoutingScope, tap: int) -> None:
        self._scope, self._tap = scope, tap

    def __call__(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        controller = current_controller(self._scope)
        if controller.reader is not None:
            hidden: Tensor = output if isinstance(output, Tensor) else output[0]
            controller.reader.read(self._tap, hidden)


def _expert(layer: ExpertLinear, name: str) -> Expert:
    expert = layer.experts[name]
    assert isinstance(expert, Expert)
    return expert


def expert_shape(config: MoguConfig, name: Responder) -> tuple[int, float]:
    """Rank and alpha of a responder of a gated model."""
    if name == "careful" and config.careful is not None:
        return config.careful.rank, config.careful.lora_alpha
    return config.rank, config.lora_alpha
