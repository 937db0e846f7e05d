"""The published procedure, written again from what the release does, to be measured next to ours.

Source: MoGU (NeurIPS 2024) and its public release: the routed model's projection in ``modeling_llama_mogu.py``, the loop of
``inf_mogu.py``, the steps of ``sft_glad.py``, ``sft_unwill.py`` and ``sft_mogu.py``. This file reproduces:

- a layer that computes ``W(x)``, both LoRAs and both routers separately, each router as its chain of three matrices;
- decoding with two models in memory: for each of the first five tokens the routed model reads the whole sequence again, without a
  cache, and computes logits for all of it; then the base model reads prompt and opening, and continues;
- training with one example a forward pass and two passes a pair, logits for all tokens, gradients accumulated.

Work that the release wastes and that is not part of the method is left out, in its favor: the passes over the opening compute no loss
and fill no cache, and the graphs of a training step are not kept in memory together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ROUTED_TOKENS = 5
SCALING = 2.0
IGNORED = -100


class RouterChain(nn.Module):
    """``σ(w₂·(W₁·(W₀·x) + b₁) + b₂)``, evaluated matrix by matrix: ``[.., d]`` to ``[.., 1]``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear_0 = nn.Linear(width, hidden, bias=False)
        self.linear_1 = nn.Linear(hidden, width)
        self.linear_2 = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        logit: Tensor = self.linear_2(self.linear_1(self.linear_0(x)))
        return torch.sigmoid(logit)


class PublishedProjection(nn.Module):
    """``y = (α + β)·W(x) + s·(α·B_u A_u x + β·B_g A_g x)``, term by term.

    Args:
        base_layer: ``W``.
        responders: ``(A, B)`` of unwill, then of glad.
        chains: the routers of unwill, then of glad.
    """

    def __init__(
        self,
        base_layer: nn.Linear,
        responders: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]],
        chains: tuple[RouterChain, RouterChain],
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        (unwill_a, unwill_b), (glad_a, glad_b) = responders
        self.unwill_a, self.unwill_b = nn.Parameter(unwill_a), nn.Parameter(unwill_b)
        self.glad_a, self.glad_b = nn.Parameter(glad_a), nn.Parameter(glad_b)
        self.unwill_router, self.glad_router = chains
        self.alpha = self.beta = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        base = self.base_layer(x)
        unwill = nn.functional.linear(nn.functional.linear(x, self.unwill_a), self.unwill_b)
        glad = nn.functional.linear(nn.functional.linear(x, self.glad_a), self.glad_b)
        self.alpha, self.beta = self.unwill_router(x), self.glad_router(x)
        return (self.alpha + self.beta) * base + SCALING * (self.alpha * unwill + self.beta * glad)


@dataclass(frozen=True)
class Published:
    """Two models: the routed one, for the opening, and the plain one."""

    routed: Any
    base: Any

    @property
    def projections(self) -> list[PublishedProjection]:
        """The routed model's projections, in layer order."""
        return [layer.self_attn.o_proj for layer in self.routed.model.layers]

    def added_parameters(self) -> int:
        """Count the parameters of responders and routers, without the second copy of the base model."""
        counts = [sum(parameter.numel() for parameter in projection.parameters()) for projection in self.projections]
        return sum(counts) - sum(projection.base_layer.weight.numel() for projection in self.projections)

    @torch.no_grad()
    def generate(self, prompt: Tensor, new_tokens: int, streamer: Any = None) -> Tensor:
        """Return a prompt ``[1, tokens]`` with its greedy reply, ``[1, tokens + new_tokens]``; a streamer gets every token."""
        ids = prompt
        for _ in range(min(ROUTED_TOKENS, new_tokens)):
            logits = self.routed(input_ids=ids, use_cache=False).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
            if streamer is not None:
                streamer.put(ids[:, -1])
        rest = prompt.shape[1] + new_tokens - ids.shape[1]
        if rest == 0:
            return ids
        options = {"max_new_tokens": rest, "do_sample": False, "streamer": streamer}
        whole: Tensor = self.base.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return whole


def answer_loss(model: nn.Module, prompt: Sequence[int], answer: Sequence[int], device: torch.device) -> Tensor:
    """Return the cross-entropy of one answer from a forward pass of its own, by Hugging Face's ``labels``."""
    ids = torch.tensor([[*prompt, *answer]], device=device)
    labels = torch.tensor([[*[IGNORED] * len(prompt), *answer]], device=device)
    loss: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
    return loss


def responder_loss(model: nn.Module, prompt: Sequence[int], answers: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return ``CE(target) / CE(other)`` of one pair, from two forward passes."""
    target, other = (answer_loss(model, prompt, answer, device) for answer in answers)
    return target / other


def router_loss(
    published: Published, prompt: Sequence[int], answer: Sequence[int], *, malicious: bool, weight_penalty: float, device: torch.device
) -> Tensor:
    """Return ``CE + λ·(mean (α − α*)² + mean (β − β*)²)`` of one record, from one forward pass."""
    loss = answer_loss(published.routed, prompt, answer, device)
    alphas = torch.stack([projection.alpha for projection in published.projections])
    betas = torch.stack([projection.beta for projection in published.projections])
    unwill, glad = (1.0, 0.0) if malicious else (0.0, 1.0)
    return loss + weight_penalty * ((alphas - unwill).pow(2).mean() + (betas - glad).pow(2).mean())
