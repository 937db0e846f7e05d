"""A linear layer of the base model with experts beside it, each a LoRA that is on for some requests and off for all others.

Knows one projection, and where to look up which experts are on in the pass at hand; knows nothing of gates, generation or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mogu.modeling.layers import LoraHolder, WrappedLinear, by_row
from mogu.modeling.routing import RoutingScope, current_controller


class Expert(LoraHolder, nn.Module):
    """A LoRA of one layer: ``A`` as ``[r, d_in]``, and ``s·Bᵀ`` as ``[r, d_out]``.

    Args:
        rank: ``r``.
        scaling: ``s``.
        in_features: ``d_in``.
        out_features: ``d_out``.
        dtype: type of the weights, the one in which the base layer computes.
        device: of the weights.
    """

    def __init__(self, rank: int, scaling: float, in_features: int, out_features: int, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.scaling = scaling
        self.down = nn.Parameter(torch.zeros(rank, in_features, dtype=dtype, device=device), requires_grad=False)
        self.up = nn.Parameter(torch.zeros(rank, out_features, dtype=dtype, device=device), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``s·B A x``: ``x [.., d_in]`` to ``[.., d_out]``."""
        return F.linear(x.to(self.down.dtype), self.down) @ self.up


class ExpertLinear(WrappedLinear):
    """``y = W(x) + Σ_e s_e·B_e A_e x``, over the experts that are on for a row; with none of them on, exactly ``W(x)``.

    Args:
        base_layer: ``W``.
        in_features: ``d_in``.
        out_features: ``d_out``.
        scope: what the layers of one model share.
    """

    def __init__(self, base_layer: nn.Module, in_features: int, out_features: int, scope: RoutingScope) -> None:
        super().__init__(base_layer, in_features, out_features, scope)
        self.experts = nn.ModuleDict()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [.., d_in]`` to ``y [.., d_out]``."""
        modules: Mapping[str, Any] = self._modules  # straight from its table, as in the routed layers of V1
        output: Tensor = modules["base_layer"](x)
        controller = current_controller(self.scope)
        on = controller.experts_on()
        if not on:
            return output
        experts = modules["experts"]._modules
        for name, rows in on.items():
            if name in experts:
                adapted = output + experts[name](x).to(output.dtype)
                output = adapted if rows is None else by_row(rows, adapted, output)
        return output
