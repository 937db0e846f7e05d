"""A base model with routed layers in it: putting them in and taking them out, the mode they are in, the dial, forward passes.

Knows the injected layers and the controllers of calls; knows nothing of tokenizers, generation or files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from mogu.errors import ConfigError
from mogu.hub import named_folder
from mogu.hub.quantization import quantization_of, settle
from mogu.modeling.config import MoguConfig
from mogu.modeling.generation_options import REFUSED_METHODS, refused_method
from mogu.modeling.injection import InjectedLayers, inject, remove, shape_of
from mogu.modeling.layers import RoutedLinear
from mogu.modeling.routing import ROUTING_MODES, RoutingBlock, RoutingController, RoutingMode, RoutingScope, current_controller
from mogu.modeling.shared_weights import share_weights
from mogu.transformers_compat import accept_cache, read_head_in_order


class RoutedModule(nn.Module):
    """A causal language model whose attention output projections are routed; what is not found here is looked up on the base model.

    Args:
        base_model: any model of ``AutoModelForCausalLM``; its weights are frozen and shared, never copied.
        config: settings; the defaults are the published ones.

    Raises:
        ArchitectureError: the attention output projections cannot be found.
        ModelFileError: the base model does not have the shape that ``config`` was made for.
    """

    injected: InjectedLayers
    """The layers that were put into the base model."""

    def __init__(self, base_model: PreTrainedModel, config: MoguConfig | None = None) -> None:
        super().__init__()
        config = (config or MoguConfig()).model_copy(deep=True)
        settle(base_model)
        self._scope = RoutingScope()
        self._required_grad = [name for name, parameter in base_model.named_parameters() if parameter.requires_grad]
        self.injected: InjectedLayers = self._inject(base_model, config)
        config.base_shape, config.base_quantization = shape_of(base_model), quantization_of(base_model)
        if config.base_model is None:
            config.base_model = named_folder(base_model.name_or_path) if base_model.name_or_path else None
        commit = getattr(base_model.config, "_commit_hash", None)
        if commit is not None and config.base_model == base_model.name_or_path:
            config.base_revision = commit  # rather than a branch, which moves
        self.mogu_config = config
        self.base_model = base_model
        base_model.requires_grad_(False)
        self._hooks = [hook for hook in (accept_cache(base_model), read_head_in_order(base_model)) if hook is not None]
        self.train(base_model.training)

    def _inject(self, base_model: PreTrainedModel, config: MoguConfig) -> InjectedLayers:
        return inject(base_model, config, self._scope)

    def detach(self) -> PreTrainedModel:
        """Put the plain layers back and return the base model as it was; this object is then of no more use."""
        remove(self.base_model, self.injected)
        for hook in self._hooks:
            hook.remove()
        for name, parameter in self.base_model.named_parameters():
            parameter.requires_grad_(name in self._required_grad)
        return self.base_model

    def plain_base_model(self) -> PreTrainedModel:
        """The base model as it was, as a second model object on the very same weights."""
        base = share_weights(self.base_model)
        remove(base, self.injected)
        return base

    def get_base_model(self) -> PreTrainedModel:
        """The base model, its projections still routed (the name that PEFT uses)."""
        return self.base_model

    @property
    def routed_layers(self) -> list[RoutedLinear]:
        """The routed layers, in order."""
        return [layer for _, layer in self.injected.routed]

    @property
    def routed_layer_indices(self) -> list[int]:
        """Indices of the decoder layers that are routed, or have experts, in order."""
        return sorted({projection.layer for projection in self.injected.projections})

    @property
    def routed_module_names(self) -> list[str]:
        """Full names of the routed projections in the base model, in order."""
        return [projection.name for projection, _ in self.injected.routed]

    @property
    def generation_config(self) -> GenerationConfig:
        """The base model's generation config; setting it here sets it there, where ``generate`` reads it."""
        return self.base_model.generation_config

    @generation_config.setter
    def generation_config(self, generation_config: GenerationConfig) -> None:
        self.base_model.generation_config = generation_config

    @property
    def dial(self) -> float:
        """The logit shift ``δ`` of every routed layer, or of the gate: positive refuses more, negative less, 0 is as trained."""
        return self.mogu_config.dial

    @dial.setter
    def dial(self, value: float) -> None:
        try:
            self.mogu_config.dial = value
        except ValueError as error:
            raise ConfigError(f"The dial is {value!r}", expected="a finite number", action="give a value such as 0.5") from error
        for layer in self.routed_layers:
            layer.set_dial(self.mogu_config.dial)

    @property
    def routing_mode(self) -> RoutingMode:
        """The mode that holds in this thread."""
        return current_controller(self._scope).mode

    def routing(self, mode: RoutingMode, *, rows: Tensor | None = None, dial: float | None = None) -> RoutingBlock:
        """Set the mode: ``"on"``; ``"off"``, which is the base model bit for bit; or one of its responders alone, for research.

        As the head of a ``with`` block, it holds for that block; a plain call holds until the next one. Either is for this thread
        alone: what other threads do with the model at the same time is not touched.

        Args:
            mode: the mode.
            rows: with ``"on"``, which rows of the batch are routed, bool ``[batch]``, the others being as with ``"off"``. Passes must
                then be of that batch. ``None`` is every row.
            dial: the logit shift ``δ`` to route at; ``None`` is the model's.

        Raises:
            ConfigError: there is no such mode, or ``rows`` do not go with it.
        """
        modes = [known for known in ROUTING_MODES if known in ("on", "off", *self.mogu_config.responders)]
        if mode not in modes:
            raise ConfigError(f"The routing mode is {mode!r}", expected=f"one of {', '.join(modes)}", action="choose one of them")
        if rows is not None and (mode != "on" or rows.dtype != torch.bool or rows.dim() != 1):
            raise ConfigError(
                f"routing({mode!r}) was given rows of {rows.dtype}, {list(rows.shape)}",
                expected="rows as a tensor of torch.bool, [batch], with the mode 'on'",
                action="correct them, or leave them out",
            )
        return RoutingBlock(RoutingController(self._scope, mode, rows=rows, dial=dial))

    @property
    def routing_weights(self) -> dict[str, Tensor]:
        """``{"unwill": α, "glad": β}`` of the last routed pass, each ``[layers, batch, tokens]``.

        Where several threads use the model, read them inside the ``with model.routing("on")`` block that made the pass.

        Raises:
            ConfigError: no pass has been routed yet.
        """
        return current_controller(self._scope).routing_weights(self.device)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base model's forward pass, in the mode that is set."""
        return self.base_model(*args, **kwargs)

    def added_parameters(self) -> int:
        """How many parameters routing adds to the base model."""
        return self.injected.added_parameters()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in REFUSED_METHODS:
                return refused_method(name)
            if name == "base_model":  # not set yet: looking it up on itself would never end
                raise
            return getattr(self.base_model, name)
