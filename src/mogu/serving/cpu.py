"""vLLM's PyTorch implementation of LoRA for CPUs, computed per adapter instead of per token.

vLLM 0.32 gathers a copy of the matrices for every token, and for tokens without an adapter it uses those of the last slot, so
that requests to the base model are answered with a LoRA that they did not ask for when they share a batch with others. Here
each adapter in the batch is one matrix product over its own tokens.

Knows indices and matrices; knows nothing of routing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class GroupedPunicaWrapper(PunicaWrapperCPU):
    """Compute ``y += x A_i`` and ``y += x B_i``, with ``i`` the adapter of each token; tokens without an adapter are unchanged."""

    groups: list[tuple[int, Tensor]] = []  # (slot, token rows); empty until the first step

    def update_metadata(self, mapping: Any, lora_index_to_id: Any, max_loras: int, vocab_size: int, **kwargs: Any) -> None:
        """Take over the step's mapping from tokens to slots and group the tokens by slot."""
        # vLLM's own runs of equal indices have room for one run per request, but a routed request can have two in a step.
        self._update_base_metadata(mapping, lora_index_to_id, max_loras, vocab_size)
        self.group()

    def group(self) -> None:
        """Group the tokens of the step by slot."""
        indices = self.token_lora_indices
        self.groups = [(int(slot), torch.nonzero(indices == slot)[:, 0]) for slot in torch.unique(indices) if slot >= 0]
        self.no_lora = not self.groups

    def _shrink(self, y: Tensor, x: Tensor, w_t_all: Tensor, scale: float) -> None:
        for slot, rows in self.groups:
            matrix = w_t_all[slot, 0].to(y.dtype)
            y[rows, : len(matrix)] = scale * (x[rows].to(y.dtype) @ matrix.T)

    def _expand(self, y: Tensor, x: Tensor, w_t_all: Tensor, offset: int, size: int) -> None:
        for slot, rows in self.groups:
            matrix = w_t_all[slot, 0].to(y.dtype)
            y[rows, offset : offset + size] += x[rows].to(y.dtype) @ matrix.T

    def _apply_shrink(self, y: Tensor, x: Tensor, w_t_all: Tensor, scale: float) -> None:
        self._shrink(y.view(-1, y.shape[-1]), x, w_t_all, scale)

    def _apply_expand(self, y: Tensor, x: Tensor, w_t_all: Tensor, y_offset: int, y_slice_size: int, add_inputs: bool = True) -> None:
        self._expand(y, x, w_t_all, y_offset, y_slice_size)
