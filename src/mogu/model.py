"""A Hugging Face causal language model with routed attention output projections.

Knows the base model, its routed layers and the saved layout; knows nothing of training data, losses or evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pipelines.base import SUPPORTED_PEFT_TASKS

from mogu.architectures import Projection
from mogu.atomic import atomic_folder
from mogu.chat import Prompt, WithTools, encode_marker
from mogu.config import Handoff, MoguConfig
from mogu.errors import ConfigError
from mogu.generation import routed_generate
from mogu.hub import fetch_model_folder, load_tokenizer, push_folder
from mogu.layers import ROUTING_MODES, AdaptedLinear, RoutedLinear, RoutingMode, RoutingState
from mogu.saved import CONFIG_FILE, Adapter, read_config
from mogu.scoring import malicious_score, score_prompts
from mogu.sharing import twin
from mogu.storing import (
    Responder,
    backbone_of,
    base_for,
    read_into,
    responder_of,
    take_backbone,
    take_responder,
    write_backbone,
    write_into,
)
from mogu.transformers_compat import accept_cache
from mogu.wrapping import adapt, find_adapted, find_projections, route, shape_of, unwrap

_MODEL_DEFAULT: Any = object()
"""Stands for "as the model's config says" where ``None`` has a meaning of its own."""


# A pipeline knows wrapped models by name, and logs an error for a name that it does not know.
SUPPORTED_PEFT_TASKS["text-generation"].append("MoguModel")


class Routing(AbstractContextManager[None]):
    """What :meth:`MoguModel.routing` returns: as a context manager, it brings the mode before back.

    Args:
        state: the state that has been set.
        before: what it was before.
    """

    def __init__(self, state: RoutingState, before: RoutingState) -> None:
        self._state, self._before = state, before

    def __exit__(self, *_: object) -> None:
        self._state.mode, self._state.rows = self._before.mode, self._before.rows


class MoguModel(nn.Module):
    """A causal language model that refuses malicious requests and answers the rest (MoGU, NeurIPS 2024).

    Wraps a model in place: its attention output projections become :class:`~mogu.layers.RoutedLinear`, in MoGU V2 the linear
    layers beside them :class:`~mogu.layers.AdaptedLinear`, everything else stays what it was, and :meth:`detach` puts the plain
    layers back. Whatever is not found here is looked up on the base
    model, so that the model can stand wherever a ``PeftModel`` or the base model can.

    Args:
        base_model: any model of ``AutoModelForCausalLM``; its weights are frozen and shared, never copied.
        config: settings; the defaults are the published ones.

    Raises:
        ArchitectureError: the attention output projections cannot be found.
        ModelFileError: the base model does not have the shape that ``config`` was made for.
    """

    prompt_weights: dict[str, Tensor] | None
    """``{"unwill": α, "glad": β}``, each ``[layers, batch]``, at the last prompt token of the last :meth:`generate`.

    Read off its own pass over the prompts; ``None`` where that pass was not routed."""

    def __init__(self, base_model: PreTrainedModel, config: MoguConfig | None = None) -> None:
        super().__init__()
        config = (config or MoguConfig()).model_copy(deep=True)
        self._projections = find_projections(base_model, config)
        self._adapted_modules = find_adapted(base_model, config, self._projections)
        config.base_shape = shape_of(base_model)
        if config.base_model is None:
            config.base_model = base_model.name_or_path or None
        if config.base_revision is None:
            config.base_revision = getattr(base_model.config, "_commit_hash", None)
        self.mogu_config = config
        self.base_model = base_model
        self.prompt_weights = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._state = RoutingState()
        self._required_grad = [name for name, parameter in base_model.named_parameters() if parameter.requires_grad]
        base_model.requires_grad_(False)
        self._cache_hook = accept_cache(base_model)
        self._adapted_layers: list[AdaptedLinear] = []
        if config.backbone is not None:
            self._adapted_layers = adapt(base_model, self._adapted_modules, config.backbone, self._state)
        self._layers = route(base_model, self._projections, config, self._state)
        self.train(base_model.training)

    @classmethod
    def from_base(cls, model: PreTrainedModel, config: MoguConfig | None = None) -> Self:
        """Wrap a base model in place, with responders and routers that are still to be trained.

        Until then ``α = β = ½`` and both responders add nothing, so the routed model computes what the base computes.
        """
        return cls(model, config)

    @classmethod
    def from_pretrained(
        cls, path_or_hub_id: str | Path, *, base_model: PreTrainedModel | str | Path | None = None, **model_kwargs: Any
    ) -> Self:
        """Load a saved model and, unless it is given, its base model.

        Args:
            path_or_hub_id: a folder that :meth:`save_pretrained` wrote, or a repository of the hub.
            base_model: the base model itself, or where it is now; by default the name that was saved.
            model_kwargs: for ``AutoModelForCausalLM.from_pretrained`` (``dtype``, ``device_map``, ``quantization_config``,
                ``trust_remote_code``, …).

        Raises:
            ModelFileError: files are missing or broken, or do not fit the base model.
        """
        folder = fetch_model_folder(str(path_or_hub_id), marker=CONFIG_FILE)
        config = read_config(folder)
        model = cls(base_for(folder, config, base_model, **model_kwargs), config)
        try:
            model.load_responders_and_routers(folder)
        except BaseException:
            model.detach()
            raise
        return model

    def load_responders_and_routers(self, folder: Path) -> None:
        """Read the responders and routers of a saved model, and the LoRA of its backbone where it has one, into this one.

        Raises:
            ModelFileError: something is missing, broken or of another shape, rank or number of layers.
        """
        read_into(self._routed, self._adapted, self.mogu_config, folder)

    def save_pretrained(self, path: str | Path, *, card: str | None = None, **_: Any) -> None:
        """Write config, responders, folded routers and model card; the base model is referred to, not copied.

        Args:
            path: the folder; written whole or not at all. A folder that holds something else is left alone.
            card: text of the README.md; by default a plain card.

        Raises:
            MoguError: the folder exists and is not ours, or cannot be written.
        """
        with atomic_folder(Path(path), marker=CONFIG_FILE) as folder:
            write_into(folder, self._routed, self._adapted, self.mogu_config, card)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None, card: str | None = None) -> str:
        """Upload what :meth:`save_pretrained` writes to a repository of the hub, made if it is missing; returns its URL.

        Raises:
            MoguError: the hub cannot be reached, or refuses.
        """
        with TemporaryDirectory() as scratch:
            write_into(Path(scratch), self._routed, self._adapted, self.mogu_config, card)
            return push_folder(Path(scratch), repo_id, private=private, token=token)

    def responder(self, name: Responder) -> Adapter:
        """The responder ``"unwill"`` or ``"glad"`` as a LoRA, copied out of the fused layers."""
        return responder_of(self._routed, self.mogu_config, name)

    def set_responder(self, name: Responder, adapter: Adapter) -> None:
        """Take over a responder.

        Raises:
            ModelFileError: it was made for another base model: its rank, its scaling, its modules or shapes differ.
        """
        take_responder(self._routed, self.mogu_config, name, adapter)

    def backbone(self) -> Adapter | None:
        """The LoRA of the backbone (MoGU V2), copied; ``None`` where there is none."""
        return backbone_of(self._adapted, self.mogu_config)

    def set_backbone(self, adapter: Adapter) -> None:
        """Take over the LoRA of the backbone.

        Raises:
            ConfigError: the config has no backbone.
            ModelFileError: it was made for another base model: its rank, its scaling, its modules or shapes differ.
        """
        take_backbone(self._adapted, self.mogu_config, adapter)

    def save_backbone(self, folder: Path) -> None:
        """Write the LoRA of the backbone as a PEFT adapter; where there is none, nothing."""
        write_backbone(folder, self._adapted, self.mogu_config)

    def detach(self) -> PreTrainedModel:
        """Put the plain layers back and return the base model as it was; this object is then of no more use."""
        unwrap(self.base_model, self._wrapped)
        if self._cache_hook is not None:
            self._cache_hook.remove()
        for name, parameter in self.base_model.named_parameters():
            parameter.requires_grad_(name in self._required_grad)
        return self.base_model

    def plain_twin(self) -> PreTrainedModel:
        """The base model as it was, as a second model object on the very same weights."""
        base = twin(self.base_model)
        unwrap(base, self._wrapped)
        return base

    def get_base_model(self) -> PreTrainedModel:
        """The base model, its projections still routed (the name that PEFT uses)."""
        return self.base_model

    @property
    def _routed(self) -> list[tuple[Projection, RoutedLinear]]:
        return list(zip(self._projections, self._layers, strict=True))

    @property
    def _adapted(self) -> list[tuple[Projection, AdaptedLinear]]:
        return list(zip(self._adapted_modules, self._adapted_layers, strict=True))

    @property
    def _wrapped(self) -> list[Projection]:
        return [*self._projections, *self._adapted_modules]

    @property
    def routed_layers(self) -> list[RoutedLinear]:
        """The routed layers, in order."""
        return list(self._layers)

    @property
    def routed_layer_indices(self) -> list[int]:
        """Indices of the decoder layers that are routed, in order."""
        return [projection.layer for projection in self._projections]

    @property
    def routed_module_names(self) -> list[str]:
        """Full names of the routed projections in the base model, in order."""
        return [projection.name for projection in self._projections]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer: the one that was set, else the base model's, loaded when first needed."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.mogu_config.base_model or str(self.base_model.name_or_path))
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    @property
    def generation_config(self) -> GenerationConfig:
        """The base model's generation config; setting it here sets it there, where ``generate`` reads it."""
        return self.base_model.generation_config

    @generation_config.setter
    def generation_config(self, generation_config: GenerationConfig) -> None:
        self.base_model.generation_config = generation_config

    @property
    def dial(self) -> float:
        """The logit shift ``δ`` of every routed layer: positive refuses more, negative less, 0 is as trained."""
        return self.mogu_config.dial

    @dial.setter
    def dial(self, value: float) -> None:
        try:
            self.mogu_config.dial = value
        except ValueError as error:
            raise ConfigError(f"The dial is {value!r}", expected="a finite number", action="give a value such as 0.5") from error
        for layer in self._layers:
            layer.set_dial(self.mogu_config.dial)

    @property
    def routing_mode(self) -> RoutingMode:
        """The mode that is set."""
        return self._state.mode

    def routing(self, mode: RoutingMode, *, rows: Tensor | None = None) -> Routing:
        """Set the mode: ``"on"``; ``"off"``, which is the base model bit for bit; or one responder alone, for research.

        A plain call sets it for good; as the head of a ``with`` block, the mode before comes back after the block.

        Args:
            mode: the mode.
            rows: with ``"on"``, which rows of the batch are routed, bool ``[batch]``, the others being as with ``"off"``. Passes must
                then be of that batch. ``None`` is every row.

        Raises:
            ConfigError: there is no such mode, or ``rows`` do not go with it.
        """
        if mode not in ROUTING_MODES:
            raise ConfigError(f"The routing mode is {mode!r}", expected=f"one of {', '.join(ROUTING_MODES)}", action="choose one of them")
        if rows is not None and (mode != "on" or rows.dtype != torch.bool or rows.dim() != 1):
            raise ConfigError(
                f"routing({mode!r}) was given rows of {rows.dtype}, {list(rows.shape)}",
                expected="rows as a tensor of torch.bool, [batch], with the mode 'on'",
                action="correct them, or leave them out",
            )
        before = RoutingState(self._state.mode, self._state.rows)
        self._state.mode, self._state.rows = mode, rows
        return Routing(self._state, before)

    @property
    def routing_weights(self) -> dict[str, Tensor]:
        """``{"unwill": α, "glad": β}`` of the last routed pass, each ``[layers, batch, tokens]``.

        Raises:
            ConfigError: no pass has been routed yet.
        """
        stacked = torch.stack([weights.to(self.device) for weights in self._recorded_weights()])
        return {"unwill": stacked[..., 0], "glad": stacked[..., 1]}

    def _recorded_weights(self) -> list[Tensor]:
        weights = [layer.routing_weights for layer in self._layers]
        if any(one is None for one in weights):
            raise ConfigError("No routed pass has been made", expected="a forward pass with routing on", action="call the model first")
        # OPT hands its projections the batch flattened, or not, as it pleases; three axes are ours.
        return [cast(Tensor, one) for one in weights]

    def last_token_weights(self) -> dict[str, Tensor]:
        """``{"unwill": α, "glad": β}`` at the last token of the last routed pass, each ``[layers, batch]``, float32."""
        last = torch.stack([weights[..., -1, :].detach().float().to(self.device) for weights in self._recorded_weights()])
        return {"unwill": last[..., 0], "glad": last[..., 1]}

    @property
    def prompt_scores(self) -> Tensor | None:
        """Malicious score ``[batch]`` of the prompts of the last :meth:`generate`; ``None`` where that was not routed."""
        return None if self.prompt_weights is None else malicious_score(self.prompt_weights)

    def score(self, prompts: str | WithTools | Sequence[Prompt], *, batch_size: int = 8) -> Tensor:
        """How malicious the model finds each prompt, in [0, 1]: the unwill share at the last prompt token.

        Args:
            prompts: an instruction, a conversation with tools (:class:`mogu.chat.WithTools`), or a list of any prompts; the chat
                template is applied.
            batch_size: prompts a pass.

        Returns:
            Scores ``[prompts]``, float32, on the CPU.

        Raises:
            ChatTemplateError: the tokenizer has no chat template.
        """
        return score_prompts(self, [prompts] if isinstance(prompts, str | WithTools) else prompts, batch_size)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base model's forward pass, in the mode that is set."""
        return self.base_model(*args, **kwargs)

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        routed_tokens: int | None = _MODEL_DEFAULT,
        handoff: Handoff = _MODEL_DEFAULT,
        answer_marker: str | None = _MODEL_DEFAULT,
        **kwargs: Any,
    ) -> Any:
        """Generate as Hugging Face's ``generate`` does, the first tokens of the answer with routing.

        In a mode other than ``"on"``, or where only some rows are routed, the whole answer is generated in that mode.

        Args:
            inputs: prompt token ids ``[batch, tokens]``, padded on the left.
            routed_tokens: how many tokens to route (``m``); ``None`` is every token. Default: the model's config.
            handoff: ``"recompute"``: the base model then re-reads prompt and opening, one more prefill, as published;
                ``"continue"``: it goes on with the cache that routing left. Default: the model's config.
            answer_marker: text that ends a reasoning block, such as ``"</think>"``; in each row that generates it, the next
                ``routed_tokens`` tokens are routed as well. Default: the model's config.
            kwargs: all that Hugging Face's ``generate`` takes.

        Returns:
            What Hugging Face's ``generate`` returns.

        Raises:
            ConfigError: options that do not go together, such as speculative decoding with a routed opening.
        """
        self.prompt_weights = None
        if self._state.mode != "on" or self._state.rows is not None:
            return cast(Any, self.base_model).generate(inputs, **kwargs)
        config = self.mogu_config
        marker = config.answer_marker if answer_marker is _MODEL_DEFAULT else answer_marker
        return routed_generate(
            self,
            inputs,
            routed_tokens=config.routed_tokens if routed_tokens is _MODEL_DEFAULT else routed_tokens,
            marker=() if marker is None else encode_marker(self.tokenizer, marker),
            handoff=config.handoff if handoff is _MODEL_DEFAULT else handoff,
            **kwargs,
        )

    def start_router_training(self) -> None:
        """Put freshly initialised trainable routers of the config's kind in the place of the folded ones.

        The LoRA of the backbone, where there is one, begins anew as well: it is trained together with the routers.
        """
        for adapted in self._adapted_layers:
            adapted.start_training()
        for layer in self._layers:
            layer.start_router_training(self.mogu_config.router, self.mogu_config.router_hidden)

    def finish_router_training(self) -> None:
        """Fold the trained routers, freeze the LoRA of the backbone, and let go of their trainable form."""
        for adapted in self._adapted_layers:
            adapted.finish_training()
        for layer in self._layers:
            layer.finish_router_training()

    def added_parameters(self) -> int:
        """How many parameters routing adds to the base model.

        ``Σ (2r + 2)·d_in + 2r·d_out + 2`` over routed layers, and ``Σ r_b·(d_in + d_out)`` over the adapted layers of MoGU V2.
        """
        routed = sum(layer.down.numel() + layer.up.numel() + layer.router_bias.numel() for layer in self._layers)
        return routed + sum(layer.down.numel() + layer.up.numel() for layer in self._adapted_layers)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":  # not set yet: looking it up on itself would never end
                raise
            return getattr(self.base_model, name)
