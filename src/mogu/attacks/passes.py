"""Forward passes over embeddings behind a prefix that is read once, and the count of what they cost.

Knows one model, its key-value cache and floating-point operations; knows nothing of defenses, losses or attacks.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mogu.hub.quantization import parameter_count
from mogu.transformers_compat import cache_argument, cache_of, read_head_in_order, repeat_rows


@dataclass
class Meter:
    """What an attacker has computed so far.

    Args:
        queries: sequences whose loss was evaluated.
        flops: floating-point operations: for every token ``2·N`` in a forward pass and ``6·N`` in one with its backward pass (Kaplan et
            al. 2020, arXiv:2001.08361), ``N`` being the parameters that a token is multiplied with. By the same convention the head counts
            for every token, wanted or not.
    """

    queries: int = 0
    flops: float = 0.0


def flops_per_token(model: Any) -> int:
    """``2·N``: floating-point operations of a forward pass for each of its tokens.

    ``N`` counts every parameter once, but no embedding table, from which a token takes one row; the output head counts even where it is the
    same tensor as the table.

    Args:
        model: a causal language model of transformers, routed or not.
    """
    tables = {id(module.weight): module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    distinct = {id(parameter): parameter for parameter in model.parameters()}
    multiplied = sum(parameter_count(parameter) for key, parameter in distinct.items() if key not in tables)
    head = model.get_output_embeddings()
    tied = head.weight.numel() if head is not None and id(head.weight) in tables else 0
    return int(2 * (multiplied + tied))


@dataclass(frozen=True)
class Pass:
    """What one forward pass gave.

    Args:
        logits: at the last tokens that were asked for, ``[batch, keep, vocabulary]``.
        cache: the key-value cache, this pass included.
        states: the hidden states, ``[batch, tokens, d]`` each, of the embedding and after every decoder layer; empty unless asked for.
    """

    logits: Tensor
    cache: Any
    states: Sequence[Tensor] = ()


class CountedModel:
    """A frozen model whose passes are counted.

    Args:
        model: a causal language model that takes ``inputs_embeds``; it is frozen, since only embeddings are ever differentiated.
        meter: what counts.
    """

    def __init__(self, model: Any, meter: Meter) -> None:
        self.model, self.meter = model.requires_grad_(False), meter
        self._flops = flops_per_token(model)
        accepted = inspect.signature(model.forward).parameters
        self._keeps = "logits_to_keep" in accepted
        self._cache_argument = cache_argument(model)
        self._prefix: Any = None

    @torch.no_grad()
    def read(self, embeds: Tensor) -> None:
        """Read a prefix ``[p, d]``, behind which :meth:`behind_prefix` goes on; ``p = 0`` is none."""
        self._prefix = self(embeds.unsqueeze(0), keep=1).cache if len(embeds) else None

    def behind_prefix(self, embeds: Tensor, *, keep: int, states: bool = False) -> Pass:
        """A pass over ``embeds [batch, n, d]`` behind the prefix; see :meth:`__call__`."""
        # Copied, since a pass writes into its cache; the prefix was read without a graph, so that it can be.
        cache = copy.deepcopy(self._prefix)
        if cache is not None:
            repeat_rows(cache, len(embeds))
        return self(embeds, keep=keep, cache=cache, states=states)

    def __call__(self, embeds: Tensor, *, keep: int, cache: Any = None, states: bool = False) -> Pass:
        """A pass over ``embeds [batch, n, d]``, differentiable with respect to them.

        Args:
            embeds: what is read; all rows have one length, so that nothing is padded.
            keep: the logits of how many of the last tokens are wanted.
            cache: of what stands before; the pass adds itself to it.
            states: whether hidden states are wanted.
        """
        options: dict[str, Any] = {"logits_to_keep": keep} if self._keeps else {}
        backward = embeds.requires_grad and torch.is_grad_enabled()
        self.meter.flops += (3 if backward else 1) * self._flops * embeds.shape[0] * embeds.shape[1]
        in_order = read_head_in_order(self.model)
        try:
            output = self.model(
                inputs_embeds=embeds.to(self.model.dtype),
                use_cache=True,
                output_hidden_states=states,
                **{self._cache_argument: cache},
                **options,
            )
        finally:
            if in_order is not None:
                in_order.remove()
        return Pass(output.logits[:, -keep:], cache_of(output), output.hidden_states if states else ())
