"""The losses of MoGU's three stages and of plain fine-tuning, for whole batches (MoGU, section 3).

They equal the mean of losses that are computed one example at a time. Knows batches and models; knows nothing of the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mogu.modeling.layers import RoutedLinear
from mogu.training.collator import IGNORED, PADDING, Layout, attention_mask
from mogu.training.recipe import Penalty

Losses = Callable[[dict[str, Tensor]], Tensor]
"""A batch to the loss of each of its examples, ``[examples]``, float32."""


def answer_logits(model: Any, batch: dict[str, Tensor], layout: Layout) -> Tensor:
    """Compute the logits of every answer token of a batch, ``[answer tokens, vocabulary]``, float32, in the order of ``targets``."""
    learned = batch["targets"] != IGNORED
    with _PickBeforeHead(model.get_output_embeddings(), batch["predictors"], learned):
        logits: Tensor = model(
            input_ids=batch["input_ids"],
            attention_mask=attention_mask(batch["segments"], layout, _dtype(model)),
            position_ids=batch["position_ids"],
            use_cache=False,
        ).logits
    return logits.flatten(0, 1).float()  # a view: indexing would have the backward pass fill and copy all of it


def answer_cross_entropy(model: Any, batch: dict[str, Tensor], layout: Layout, answers: int) -> Tensor:
    """Compute the mean cross-entropy of each answer in one pass; logits are computed for answer tokens only.

    Args:
        model: a causal language model, or a wrapper of one (PEFT's or ours).
        batch: as :class:`~mogu.training.collator.Collator` makes it.
        layout: the layout it was made in.
        answers: answers per example.

    Returns:
        ``[examples, answers]``, float32, in nats per token.
    """
    logits = answer_logits(model, batch, layout)
    learned = batch["targets"] != IGNORED
    losses = F.cross_entropy(logits, batch["targets"][learned], reduction="none")
    rows = learned.nonzero()[:, 0]
    if layout == "separate":
        rows = torch.div(rows, answers, rounding_mode="floor")
    examples = batch["input_ids"].shape[0] // (answers if layout == "separate" else 1)
    slot = rows * answers + batch["answers"][learned]
    zeros = torch.zeros(examples * answers, device=losses.device)
    sums = zeros.index_add(0, slot, losses)
    counts = zeros.index_add(0, slot, torch.ones_like(losses))
    return (sums / counts).view(examples, answers)


def responder_losses(model: Any, batch: dict[str, Tensor], layout: Layout) -> Tensor:
    """``CE(answer to learn) / CE(other answer)`` of each example, ``[examples]``: the loss of the glad and of the unwill stage."""
    cross_entropy = answer_cross_entropy(model, batch, layout, answers=2)
    return cross_entropy[:, 0] / cross_entropy[:, 1]


def plain_responder_losses(model: Any, batch: dict[str, Tensor], layout: Layout) -> Tensor:
    """``CE(answer to learn)`` of each example, ``[examples]``: what the ratio of :func:`responder_losses` is held against."""
    return answer_cross_entropy(model, batch, layout, answers=2)[:, 0]


def answer_losses(model: Any, batch: dict[str, Tensor], layout: Layout) -> Tensor:
    """``CE(answer)`` of each example of one answer, ``[examples]``: plain supervised fine-tuning."""
    return answer_cross_entropy(model, batch, layout, answers=1)[:, 0]


def router_losses(model: Any, batch: dict[str, Tensor], layout: Layout, weight_penalty: float, penalty: Penalty = "l2") -> Tensor:
    """``CE + λ·(mean (α − α*)² + mean (β − β*)²)`` of each example, ``[examples]``: the loss of the router stage.

    The means are over all real tokens of prompt and answer and over all routed layers; benign examples have ``α* = 0, β* = 1``,
    malicious ones ``α* = 1, β* = 0``. With ``penalty="l1"``, absolute values take the place of squares: so the paper's text has it, and
    squares its code.

    Args:
        model: the :class:`~mogu.MoguModel`, in routing mode ``"on"``.
        batch: examples of one answer.
        layout: the layout of the batch.
        weight_penalty: ``λ``.
        penalty: ``"l2"`` or ``"l1"``.
    """
    return answer_losses(model, batch, layout) + weight_penalty * weight_losses(model.routed_layers, batch, penalty).sum(-1)


def weight_losses(layers: list[RoutedLinear], batch: dict[str, Tensor], penalty: Penalty = "l2") -> Tensor:
    """``mean (α − α*)²`` and ``mean (β − β*)²`` of each example, ``[examples, 2]``, from the latest pass; absolute values for ``"l1"``."""
    real = (batch["segments"] != PADDING).float()
    malicious = batch["malicious"].float()
    targets = torch.stack([malicious, 1 - malicious], dim=-1).unsqueeze(1)
    total = torch.zeros(len(malicious), 2, device=real.device)
    for layer in layers:
        assert layer.routing_weights is not None  # the latest pass was routed
        difference = layer.routing_weights.float().to(real.device) - targets
        distance = difference.abs() if penalty == "l1" else difference**2
        total = total + (distance * real.unsqueeze(-1)).sum(1) / real.sum(1, keepdim=True)
    return total / len(layers)


class _PickBeforeHead:
    """While active, the model's output head sees only the hidden states that predict an answer token, ``[1, n, d]``.

    A hook on the head rather than an argument to the model: it works for every family, and whatever the model does to
    its logits (Gemma's soft cap) still happens.
    """

    def __init__(self, head: nn.Module, predictors: Tensor, learned: Tensor) -> None:
        self.head, self.predictors, self.learned = head, predictors, learned

    def __enter__(self) -> None:
        self.handle = self.head.register_forward_pre_hook(self._pick)

    def _pick(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        rows = torch.arange(len(hidden), device=self.learned.device).unsqueeze(1).expand_as(self.predictors)[self.learned]
        # The head of a model that is spread over several devices may be on another one than the batch.
        index = (rows.to(hidden.device), self.predictors[self.learned].to(hidden.device))
        return (hidden[index].unsqueeze(0), *args[1:])

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def _dtype(model: Any) -> torch.dtype:
    embeddings: Tensor = model.get_input_embeddings().weight
    return embeddings.dtype
