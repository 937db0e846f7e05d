"""A Hugging Face causal language model with routed attention output projections.

Puts together what the other files of this room do: layers in a base model, one controller a call, generation, scores, the saved
model. Knows nothing of training data, losses or evaluation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pipelines.base import SUPPORTED_PEFT_TASKS

from mogu.files.atomic import atomic_folder
from mogu.hub import fetch_model_folder, load_tokenizer, push_folder
from mogu.hub.quantization import in_words, quantization_of
from mogu.inference.padding import padding_id
from mogu.inference.prompts import Prompt, WithTools, encode_marker, encode_prompts
from mogu.modeling.architectures import decoder_layer_name
from mogu.modeling.base_identity import check_base_weights, sample_weights
from mogu.modeling.base_model import load_base_of
from mogu.modeling.checkpoint import CONFIG_FILE, Checkpoint
from mogu.modeling.config import Handoff, MoguConfig, RoutedTokens
from mogu.modeling.generation import RoutedGeneration
from mogu.modeling.injection import base_parameters
from mogu.modeling.prompt_contract import prepare_tokenizer, record_prompt
from mogu.modeling.routed_module import RoutedModule
from mogu.modeling.routing import RoutingController, current_controller
from mogu.modeling.routing_schedule import RoutingSchedule
from mogu.modeling.scoring import malicious_score, score_prompts
from mogu.recipes.settings import Quantization

logger = logging.getLogger(__name__)

MODEL_DEFAULT: Any = object()
"""Stands for "as the model's config says" where ``None`` has a meaning of its own."""


# A pipeline knows wrapped models by name, and logs an error for a name that it does not know.
SUPPORTED_PEFT_TASKS["text-generation"] += ["MoguModel", "GatedModel"]


class MoguModel(RoutedModule):
    """A causal language model that refuses malicious requests and answers the rest (MoGU, NeurIPS 2024).

    Wraps a model in place: its attention output projections become :class:`~mogu.modeling.layers.RoutedLinear`, in MoGU V2 the linear
    layers beside them :class:`~mogu.modeling.layers.AdaptedLinear`, everything else stays what it was, and :meth:`detach` puts the
    plain layers back. Whatever is not found here is looked up on the base model, so that the model can stand wherever a ``PeftModel``
    or the base model can. Any number of threads may generate and score with one model.

    Args:
        base_model: any model of ``AutoModelForCausalLM``; its weights are frozen and shared, never copied.
        config: settings; the defaults are the published ones.

    Raises:
        ArchitectureError: the attention output projections cannot be found.
        ModelFileError: the base model does not have the shape that ``config`` was made for.
    """

    def __init__(self, base_model: PreTrainedModel, config: MoguConfig | None = None) -> None:
        super().__init__(base_model, config)
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @classmethod
    def from_base(cls, model: PreTrainedModel, config: MoguConfig | None = None) -> Self:
        """Wrap a base model in place, with responders and routers, or a gate, that are still to be trained.

        Until then ``α = β = ½`` and both responders add nothing, so the routed model computes what the base computes. A config with a
        gate gives a :class:`~mogu.modeling.gated.model.GatedModel`.
        """
        if config is None or config.gate is None or cls is not MoguModel:
            return cls(model, config)
        from mogu.modeling.gated.model import GatedModel  # it is a MoguModel itself

        return cast(Self, GatedModel(model, config))

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        *,
        base_model: PreTrainedModel | str | Path | None = None,
        strict_base: bool = False,
        **model_kwargs: Any,
    ) -> Self:
        """Load a saved model and, unless it is given, its base model.

        Args:
            path_or_hub_id: a folder that :meth:`save_pretrained` wrote, or a repository of the hub.
            base_model: the base model itself, or where it is now; by default the name that was saved.
            strict_base: refuse a base model with other weights than in training, which otherwise gets a warning.
            model_kwargs: for ``AutoModelForCausalLM.from_pretrained`` (``dtype``, ``device_map``, ``quantization_config``,
                ``trust_remote_code``, …); ``quantization="4bit"`` or ``"8bit"`` loads the base as `mogu train` does.

        Raises:
            ModelFileError: files are missing or broken, or do not fit the base model.
        """
        folder = fetch_model_folder(str(path_or_hub_id), marker=CONFIG_FILE)
        checkpoint = Checkpoint.read(folder)
        base = load_base_of(folder, checkpoint.config, base_model, **model_kwargs)
        return cls.from_checkpoint(checkpoint, base, strict_base=strict_base)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, base_model: PreTrainedModel, *, strict_base: bool = False) -> Self:
        """Put a saved model that has been read into its base model, in place.

        Args:
            checkpoint: the saved model.
            base_model: its base model.
            strict_base: refuse a base model with other weights than in training, which otherwise gets a warning.

        Raises:
            ModelFileError: the two do not fit; the base model is then as it was.
        """
        check_base_weights(
            checkpoint.base_weights or {},
            base_parameters(base_model),
            name=base_model.name_or_path or "that was given",
            trained_on=checkpoint.config.base_model or "a model that was given",
            strict=strict_base,
        )
        _warn_of_other_quantization(checkpoint.config.base_quantization, quantization_of(base_model))
        model = cls.from_base(base_model, checkpoint.config)
        try:
            model.load_checkpoint(checkpoint)
            model.mogu_config.base_quantization = checkpoint.config.base_quantization  # a copy says the same
        except BaseException:
            model.detach()
            raise
        return model

    def checkpoint(self, *, card: str | None = None) -> Checkpoint:
        """Everything that a saved model consists of, copied out of this one.

        Args:
            card: text of the README.md; by default a plain card.
        """
        return self._checkpoint(card=card)

    def _checkpoint(self, **parts: Any) -> Checkpoint:
        config = self.mogu_config.model_copy()
        if config.chat_template is None and self._tokenizer is not None:
            record_prompt(config, self._tokenizer, config.system_prompt)
        injected = self.injected
        return Checkpoint(
            config,
            {name: injected.responder(name) for name in config.responders},
            injected.routers(),
            backbone=injected.backbone(),
            base_weights=sample_weights(base_parameters(self.base_model)),
            **parts,
        )

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Take over the responders and routers of a saved model, and the LoRA of its backbone where it has one.

        Raises:
            ModelFileError: they are of another shape, rank or number of layers.
        """
        for name, adapter in checkpoint.responders.items():
            self.injected.set_responder(name, adapter)
        if checkpoint.backbone is not None:
            self.injected.set_backbone(checkpoint.backbone)
        self.injected.set_routers(checkpoint.routers)

    def save_pretrained(self, path: str | Path, *, card: str | None = None, **_: Any) -> None:
        """Write config, chat template, responders, folded routers and model card; the base model is referred to, not copied.

        Args:
            path: the folder; written whole or not at all. A folder that holds something else is left alone.
            card: text of the README.md; by default a plain card.

        Raises:
            MoguError: the folder exists and is not ours, or cannot be written.
        """
        with atomic_folder(Path(path), marker=CONFIG_FILE) as folder:
            self.checkpoint(card=card).write(folder)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None, card: str | None = None) -> str:
        """Upload what :meth:`save_pretrained` writes to a repository of the hub, made if it is missing; returns its URL.

        Raises:
            MoguError: the hub cannot be reached, or refuses.
        """
        with TemporaryDirectory() as scratch:
            self.checkpoint(card=card).write(Path(scratch))
            return push_folder(Path(scratch), repo_id, private=private, token=token)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with the chat template and system prompt of training: the one that was set, else the base model's.

        Raises:
            ModelFileError: it cannot be loaded, or has another vocabulary than in training.
        """
        if self._tokenizer is None:
            source = str(self.base_model.name_or_path or self.mogu_config.base_model)
            revision = getattr(self.base_model.config, "_commit_hash", None) or self.mogu_config.base_revision
            self._tokenizer = prepare_tokenizer(self.mogu_config, load_tokenizer(source, revision=revision))
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = prepare_tokenizer(self.mogu_config, tokenizer)

    def use_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Use a tokenizer just as it is, its chat template included, whatever the model was trained with."""
        self._tokenizer = tokenizer

    def _repr_html_(self) -> str:
        from mogu.modeling.notebook import model_html  # which only notebooks ask for

        return model_html(self)

    @property
    def prompt_weights(self) -> dict[str, Tensor] | None:
        """``{"unwill": α, "glad": β}``, each ``[layers, batch]``, at the last prompt token of the last :meth:`generate`.

        Of this thread's last call, or, where it has made none, of the last call of any thread. ``None`` where the pass over the
        prompts was not routed.
        """
        return self._scope.prompt_weights

    @property
    def prompt_scores(self) -> Tensor | None:
        """Malicious score ``[batch]`` of the prompts that :attr:`prompt_weights` belong to; ``None`` where they were not routed."""
        weights = self.prompt_weights
        return None if weights is None else malicious_score(weights)

    def score(self, prompts: str | WithTools | Sequence[Prompt], *, batch_size: int = 8) -> Tensor:
        """How malicious the model finds each prompt, in [0, 1]: the unwill share at the last prompt token.

        Args:
            prompts: an instruction, a conversation with tools (:class:`mogu.inference.prompts.WithTools`), or a list of any
                prompts; the chat template is applied.
            batch_size: prompts a pass.

        Returns:
            Scores ``[prompts]``, float32, on the CPU.

        Raises:
            ChatTemplateError: the tokenizer has no chat template.
        """
        listed = [prompts] if isinstance(prompts, str | WithTools) else prompts
        tokenizer = self.tokenizer
        ids = encode_prompts(tokenizer, listed)
        controller = RoutingController(self._scope, dial=self.dial)
        was_training = self.training
        if was_training:
            self.eval()
        try:
            pad = padding_id(tokenizer, self.base_model)
            return score_prompts(self.base_model, controller, ids, pad_token_id=pad, batch_size=batch_size)
        finally:
            if was_training:
                self.train()

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        routed_tokens: RoutedTokens | None = None,
        handoff: Handoff | None = None,
        answer_marker: str | None = MODEL_DEFAULT,
        **kwargs: Any,
    ) -> Any:
        """Generate as Hugging Face's ``generate`` does, the first tokens of the answer with routing.

        In a mode other than ``"on"``, the whole answer is generated in that mode. Where only some rows are routed, the base model answers
        the others.

        Args:
            inputs: prompt token ids ``[batch, tokens]``, padded on the left.
            routed_tokens: how many tokens to route (``m``), or ``"all"``. Default: the model's config.
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
        self._scope.prompt_weights = None
        current = current_controller(self._scope)
        if current.mode != "on" or (current.rows is not None and not current.rows.any()):
            return cast(Any, self.base_model).generate(inputs, **kwargs)
        config = self.mogu_config
        marker = config.answer_marker if answer_marker is MODEL_DEFAULT else answer_marker
        controller = RoutingController(self._scope, dial=self.dial if current.dial is None else current.dial)
        call = RoutedGeneration(
            self.base_model,
            controller,
            RoutingSchedule(
                config.routed_tokens if routed_tokens is None else routed_tokens,
                () if marker is None else encode_marker(self.tokenizer, marker),
            ),
            config.handoff if handoff is None else handoff,
            decoder_layers=decoder_layer_name(self.routed_module_names[0]).rpartition(".")[0],
            first_routed=self.routed_layer_indices[0],
            rows=current.rows,
        )
        with controller:
            output = call.generate(inputs, **kwargs)
        self._scope.prompt_weights = call.prompt_weights
        return output


def _warn_of_other_quantization(trained_on: Quantization | None, stands_on: Quantization | None) -> None:
    if trained_on != stands_on:
        logger.warning(
            "The model was trained on its base with %s, and stands on one with %s. What was measured of it may not hold.",
            in_words(trained_on),
            in_words(stands_on),
        )
