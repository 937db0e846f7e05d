"""vLLM's PyTorch path for LoRA, adapter by adapter instead of token by token.

vLLM 0.32 gathers a copy of the matrices for every token, and for tokens without an adapter it takes those of the last slot,
so that base requests in a batch with others are answered by a LoRA that they did not ask for. Here each adapter in the batch
is one product, over its tokens alone.

Knows indices and matrices; knows nothing of routing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class GroupedPunicaWrapper(PunicaWrapperCPU):
    """The same interface and results, ``y += x A_i`` and ``y += x B_i`` with ``i`` each token's adapter; none where there is none."""

    groups: list[tuple[int, Tensor]] = []  # until the first step

    def update_metadata(self, mapping: Any, lora_index_to_id: Any, max_loras: int, vocab_size: int, **kwargs: Any) -> None:
        """Take the step's mapping of tokens to slots, and sort the tokens by slot."""
        # Not vLLM's runs of equal indices, which it has room for one a request: a routed request can have two in a step.
        self._update_base_metadata(mapping, lora_index_to_id, max_loras, vocab_size)
        self.group()

    def group(self) -> None:
        """Sort the step's tokens by slot."""
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
