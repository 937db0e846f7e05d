"""A causal language model with a prompt gate, experts, and an ear on its answers.

Puts together what the other files of this room do. Knows nothing of training data, losses or evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from mogu.errors import ConfigError, ModelFileError
from mogu.inference.batches import in_batches
from mogu.inference.padding import padding_id, right_pad
from mogu.inference.prompts import Prompt, WithTools, encode_prompts
from mogu.inference.turns import TurnMarks
from mogu.modeling.checkpoint import Checkpoint
from mogu.modeling.config import GateConfig, Handoff, MoguConfig, RoutedTokens
from mogu.modeling.gated.gate import AllRead, Gate, Places, PromptReading, StreamHead
from mogu.modeling.gated.generation import GatedGeneration, experts_for, places_of
from mogu.modeling.gated.injection import InjectedExperts, inject_experts, listen_at
from mogu.modeling.gated.listening import sentence_boundary
from mogu.modeling.model import MODEL_DEFAULT, MoguModel
from mogu.modeling.routing import RoutingController, current_controller
from mogu.modeling.routing_schedule import RoutingSchedule
from mogu.modeling.scoring import prefill_options
from mogu.transformers_compat import CACHE


class GatedModel(MoguModel):
    """A model that decides once for each request who answers it (see :mod:`mogu.modeling.gated.gate` for the mathematics).

    .. code-block:: text

        y = W(x) + s·B_e A_e x      e = unwill  if p ≥ refuse,   careful  if careful ≤ p < refuse,   else none

    Args:
        base_model: any model of ``AutoModelForCausalLM``; its weights are frozen and shared, never copied.
        config: settings, with a gate.

    Raises:
        ArchitectureError: the attention output projections cannot be found.
        ModelFileError: the base model does not have the shape that ``config`` was made for.
        ConfigError: the config has no gate.
    """

    def __init__(self, base_model: PreTrainedModel, config: MoguConfig | None = None) -> None:
        if config is None or config.gate is None:
            raise ConfigError("The config has no gate", expected="the config of a gated model", action="use MoguModel for V1 and V2")
        super().__init__(base_model, config)
        self._ears: list[RemovableHandle] = []
        self.gate: Gate | None = None
        """The prompt gate; ``None`` until one is fitted or loaded: then the base model answers everything."""
        self.stream: StreamHead | None = None
        """The head that listens to answers; ``None`` where nobody listens."""

    def _inject(self, base_model: PreTrainedModel, config: MoguConfig) -> InjectedExperts:
        return inject_experts(base_model, config, self._scope)

    @property
    def gate_config(self) -> GateConfig:
        """What follows from the gate's probabilities; set it as a whole."""
        config = self.mogu_config.gate
        assert config is not None
        return config

    @gate_config.setter
    def gate_config(self, config: GateConfig) -> None:
        self.mogu_config.gate = config

    @property
    def marks(self) -> TurnMarks:
        """What stands around the user's turns in a prompt."""
        config = self.gate_config
        return TurnMarks(config.before, config.after, config.header)

    def set_gate(self, gate: Gate, stream: StreamHead | None = None) -> None:
        """Take over a gate and a stream head, and hear the layers that they read.

        Raises:
            ModelFileError: the base model has no such layer, or another width.
        """
        taps = {**gate.vectors, **(stream.vectors if stream is not None else {})}
        width = self.base_model.config.get_text_config().hidden_size
        wrong = {tap: list(vectors.shape) for tap, vectors in taps.items() if vectors.shape[-1] != width}
        if wrong:
            raise ModelFileError(
                f"The gate reads {wrong}",
                expected=f"vectors of the base model's width, {width}",
                action="use the gate that was saved with this model",
            )
        self.detach_ears()
        self._ears = listen_at(self.base_model, self._scope, sorted(taps), self.injected.projections[0].name)
        self.gate, self.stream = gate, stream

    def detach_ears(self) -> None:
        """Hear nothing any more."""
        for handle in self._ears:
            handle.remove()
        self._ears = []

    def detach(self) -> PreTrainedModel:
        """Put the plain layers back and return the base model as it was; this object is then of no more use."""
        self.detach_ears()
        return super().detach()

    def checkpoint(self, *, card: str | None = None) -> Checkpoint:
        """Everything that a saved model consists of, copied out of this one."""
        return self._checkpoint(card=card, gate=self.fitted_gate(), stream=self.stream)

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Take over the responders, the gate and the stream head of a saved model.

        Raises:
            ModelFileError: they are of another shape, rank or number of layers.
        """
        super().load_checkpoint(checkpoint)
        if checkpoint.gate is not None:
            self.set_gate(checkpoint.gate, checkpoint.stream)

    @property
    def prompt_scores(self) -> Tensor | None:
        """The gate's probability ``[batch]`` for the prompts of the last :meth:`generate`; ``None`` where it was not asked."""
        scores: Tensor | None = self._scope.prompt_scores
        return scores

    @property
    def prompt_weights(self) -> dict[str, Tensor] | None:
        """``None``: a gated model has no routing weights a layer; see :attr:`prompt_scores`."""
        return None

    @torch.no_grad()
    def score(self, prompts: str | WithTools | Sequence[Prompt], *, batch_size: int = 8) -> Tensor:
        """How malicious the gate finds each prompt: its probability, with the dial, ``[prompts]``, float32, on the CPU.

        Args:
            prompts: an instruction, a conversation with tools, or a list of any prompts; the chat template is applied.
            batch_size: prompts a pass.

        Raises:
            ChatTemplateError: the tokenizer has no chat template.
        """
        listed = [prompts] if isinstance(prompts, str | WithTools) else prompts
        tokenizer = self.tokenizer
        ids = encode_prompts(tokenizer, listed)

        gate, pad, device = self.fitted_gate(), padding_id(tokenizer, self.base_model), self.base_model.device

        def score(indices: list[int]) -> list[float]:
            # Padded on the right and without a mask: causal attention never looks to the right, and reading is faster so.
            rows = [ids[index] for index in indices]
            batch = right_pad(rows, pad, device)
            places = Places.of([self.marks.spans(row) for row in rows], [0] * len(rows), batch.shape[1], device)
            logits = self._hear(_UntilComplete(gate, places), input_ids=batch, use_cache=False)
            scores: list[float] = (logits + self.dial).sigmoid().tolist()
            return scores

        return torch.tensor(in_batches(score, list(map(len, ids)), most=lambda _: batch_size))

    def prompt_logits(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The gate's logit ``z`` of whole prompts, without the dial, ``[batch]``: one pass of the base model, up to the last tap.

        Args:
            input_ids: ``[batch, tokens]``, padded on the left.
            attention_mask: 0 at padding.
        """
        reading = _UntilComplete(self.fitted_gate(), places_of(input_ids, attention_mask, self.marks))
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self._hear(reading, input_ids=input_ids, attention_mask=mask, **prefill_options(self.base_model, mask))

    def _hear(self, reading: _UntilComplete, **inputs: Any) -> Tensor:
        """The logits of a pass of the plain base model, up to the last tap."""
        controller = RoutingController(self._scope, "off")
        controller.reader = reading
        with controller, suppress(AllRead):
            self.base_model(**inputs)
        return reading.logits()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base model's forward pass; in mode ``"on"``, the gate hears a whole sequence first, and its expert computes what it flags.

        A pass that goes on from a key-value cache is the base model's, and inside a ``with model.routing("on")`` block that of whoever
        computed the block's last whole sequence.
        """
        controller = current_controller(self._scope)
        ids = kwargs.get("input_ids", args[0] if args else None)
        if self.gate is None or controller.mode != "on" or controller.reader is not None or not isinstance(ids, Tensor):
            return self.base_model(*args, **kwargs)
        cache = kwargs.get(CACHE)
        if cache is not None and cache.get_seq_length():
            return self.base_model(*args, **kwargs)
        mask = kwargs.get("attention_mask")
        logits = self.prompt_logits(ids, mask if isinstance(mask, Tensor) and mask.dim() == 2 else None)
        logits = logits + (self.dial if controller.dial is None else controller.dial)
        among = None if controller.rows is None else controller.rows.cpu()
        outside = controller is self._scope.default  # which other threads share
        if outside:
            controller = RoutingController(self._scope)
        controller.experts = experts_for(logits.sigmoid(), self.gate_config, among)
        with controller if outside else nullcontext():
            return self.base_model(*args, **kwargs)

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
        """Generate as Hugging Face's ``generate`` does; prompts that the gate flags are answered by their expert.

        Args:
            inputs: prompt token ids ``[batch, tokens]``, padded on the left.
            routed_tokens: how many tokens of an answer the expert is on for, or ``"all"``. Default: the model's config.
            handoff: of no effect here: a flagged answer is not read again.
            answer_marker: of no effect here: an expert stays on behind a marker.
            kwargs: all that Hugging Face's ``generate`` takes.

        Returns:
            What Hugging Face's ``generate`` returns.

        Raises:
            ConfigError: options that do not go together, such as speculative decoding.
        """
        self._scope.prompt_scores = None
        current = current_controller(self._scope)
        if self.gate is None or current.mode != "on":
            return self.base_model.generate(inputs, **kwargs)  # type: ignore[operator]
        config = self.mogu_config
        controller = RoutingController(self._scope)
        call = GatedGeneration(
            self.base_model,
            controller,
            self.gate,
            self.gate_config,
            dial=self.dial if current.dial is None else current.dial,
            schedule=RoutingSchedule(config.routed_tokens if routed_tokens is None else routed_tokens),
            marks=self.marks,
            stream=self.stream,
            boundary=self._sentence_boundary,
            rows=current.rows,
        )
        with controller:
            output = call.generate(inputs, **kwargs)
        self._scope.prompt_scores = None if call.logits is None else call.logits.sigmoid()
        return output

    def _sentence_boundary(self, answer: Sequence[int]) -> int:
        return sentence_boundary(self.tokenizer, answer)

    def fitted_gate(self) -> Gate:
        """The gate.

        Raises:
            ConfigError: it is still to be fitted.
        """
        if self.gate is None:
            raise ConfigError("The model has no gate yet", expected="a gate that was fitted or loaded", action="call set_gate first")
        return self.gate

    def added_parameters(self) -> int:
        """How many parameters the experts, the gate and the stream head add to the base model."""
        heads = [part for part in (self.gate, self.stream) if part is not None]
        return super().added_parameters() + sum(vectors.numel() for head in heads for vectors in head.vectors.values())


class _UntilComplete(PromptReading):
    """A reading that ends the pass once it is complete."""

    def read(self, tap: int, hidden: Tensor) -> None:
        super().read(tap, hidden)
        if self.complete:
            raise AllRead
