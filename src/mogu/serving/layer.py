"""The routed projection in vLLM: its row-parallel LoRA layer, with the routing gates between shrink and expand.

Knows one layer, its slots and the buffers of a step; knows nothing of requests, positions or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.lora.layers import RowParallelLinearWithLoRA

from mogu.serving.packed_adapter import PackedLayer


@dataclass
class StepBuffers:
    """Buffers that all routed layers of a worker share during a forward pass, each ``[tokens]``.

    Args:
        dials: the dial ``δ`` of each token.
        unwill_shares: sum of the unwill share ``α / (α + β)`` over the routed layers.
        routed_layers: number of layers that routed the token.
    """

    dials: Tensor
    unwill_shares: Tensor
    routed_layers: Tensor


def step_buffers(punica_wrapper: Any) -> StepBuffers:
    """Return the buffers that accompany vLLM's LoRA indices of a step; the first call creates them."""
    buffers = getattr(punica_wrapper, "mogu_step_buffers", None)
    if buffers is None:
        shape = punica_wrapper._token_lora_indices.shape
        zeros = [torch.zeros(shape, dtype=torch.float32, device=punica_wrapper.device) for _ in range(3)]
        buffers = punica_wrapper.mogu_step_buffers = StepBuffers(*zeros)
    return buffers


class RoutedRowParallelLinear(RowParallelLinearWithLoRA):
    """Row-parallel linear layer with LoRA slots, each of which may hold a routed MoGU layer (MoGU, section 3.2).

    .. code-block:: text

        α = σ(v_u·x + c_u + δ)     β = σ(v_g·x + c_g − δ)
        y = (α + β)·W(x) + α·s·B_u A_u x + β·s·B_g A_g x

    A slot has ``R`` rows, vLLM's ``max_lora_rank``. A MoGU layer of rank ``r`` keeps ``A_u`` in rows ``0 .. r``, ``A_g`` in
    rows ``h .. h + r`` with ``h = (R − 2) // 2``, and ``v_u`` and ``v_g`` in the last two rows, so the gate of a row does not
    depend on the slot. For tokens of a plain LoRA or of the base model, all gates are 1.

    With tensor parallelism, ``A x`` is a partial sum on each rank, and so are the logits. Only the logits (``[tokens, 2]``)
    are reduced before the gates; everything after the gates is linear, so vLLM's own reduction of ``y`` adds it up.
    """

    def __init__(self, base_layer: Any) -> None:
        super().__init__(base_layer)
        self._enable_aux_cuda_stream = False  # that stream computes the adapter separately from W(x), which routing must scale

    def create_lora_weights(self, max_loras: int, lora_config: Any, model_config: Any = None) -> None:
        """Allocate the slots, the router biases ``c`` and the flags of routed slots."""
        super().create_lora_weights(max_loras, lora_config, model_config)
        rows = self.lora_a_stacked[0].shape[2]
        self.glad_start = (rows - 2) // 2  # h
        gate_of_row = torch.zeros(rows, dtype=torch.long)
        gate_of_row[self.glad_start :] = 1
        self.gate_of_row = gate_of_row.to(self.device)
        self.router_biases = torch.zeros(max_loras, 2, dtype=torch.float32, device=self.device)
        self.routed_slots = torch.zeros(max_loras, dtype=torch.bool, device=self.device)

    def set_mapping(self, punica_wrapper: Any) -> None:
        """Take over the wrapper that knows the slot of each token."""
        super().set_mapping(punica_wrapper)
        self.step = step_buffers(punica_wrapper)

    def reset_lora(self, index: int) -> None:
        """Empty a slot."""
        super().reset_lora(index)
        self.router_biases[index] = 0
        self.routed_slots[index] = False

    def set_lora(self, index: int, lora_a: Any, lora_b: Any) -> None:
        """Fill a slot with the two matrices of a plain LoRA, or with ``[shrink]`` and ``[expand, biases]`` of a MoGU layer."""
        if not isinstance(lora_a, list):
            super().set_lora(index, lora_a, lora_b)
            return
        layer = PackedLayer(lora_a[0], *lora_b)
        self.reset_lora(index)
        rank = layer.expand.shape[1] // 2
        shrink = self.slice_lora_a(layer.shrink) if self.tp_size > 1 else layer.shrink
        a_rows, b_columns = self.lora_a_stacked[0][index, 0], self.lora_b_stacked[0][index, 0]
        for responder, start in enumerate((0, self.glad_start)):
            packed = slice(responder * rank, (responder + 1) * rank)
            a_rows[start : start + rank].copy_(shrink[packed], non_blocking=True)
            b_columns[:, start : start + rank].copy_(layer.expand[:, packed], non_blocking=True)
        a_rows[-2:].copy_(shrink[-2:], non_blocking=True)
        self.router_biases[index].copy_(layer.biases, non_blocking=True)
        self.routed_slots[index] = True

    def _apply_lora_to_output(self, x: Tensor, output: Tensor) -> Tensor:
        if getattr(self.punica_wrapper, "no_lora", False):  # only the CPU path sets it; vLLM's kernels skip such steps at almost no cost
            return output
        shape = output.shape
        x, output = x.reshape(-1, x.shape[-1]), output.reshape(-1, shape[-1])
        tokens = len(x)
        activations = torch.zeros(1, tokens, len(self.gate_of_row), dtype=torch.float32, device=x.device)
        self.punica_wrapper.add_shrink(activations, x, self.lora_a_stacked, 1.0)

        slots = self.punica_wrapper._token_lora_indices[:tokens]
        routed = self.routed_slots[slots.clamp(min=0)] & (slots >= 0)
        logits = activations[0, :, -2:].contiguous()
        if self.tp_size > 1:
            logits = tensor_model_parallel_all_reduce(logits)
        dials = self.step.dials[:tokens]
        logits = logits + self.router_biases[slots.clamp(min=0)] + torch.stack([dials, -dials], dim=1)
        weights = torch.where(routed[:, None], torch.sigmoid(logits), 1.0)
        total = weights.sum(dim=1)
        self.step.unwill_shares[:tokens] += torch.where(routed, weights[:, 0] / total, 0.0)
        self.step.routed_layers[:tokens] += routed

        activations *= weights[:, self.gate_of_row]
        output *= torch.where(routed, total, 1.0)[:, None].to(output.dtype)
        self.punica_wrapper.add_expand(output, activations, self.lora_b_stacked, self.output_slices, add_inputs=True)
        return output.view(shape)
