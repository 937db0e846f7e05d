"""The layers that are put into a base model: the routed attention output projection, and the adapted backbone layer of MoGU V2.

They know one projection each, and where to look up how the pass at hand is routed. They know nothing of models, generation, training
loops or files, and keep nothing of a call themselves.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mogu.modeling.config import BackboneConfig, MoguConfig, Responder, RouterKind
from mogu.modeling.routers import ChainRouter, LinearRouter, make_router
from mogu.modeling.routing import RoutingScope, current_controller


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def by_row(rows: Tensor, routed: Tensor, base: Tensor) -> Tensor:
    """Routed output in the rows of the batch that are routed, the base's in the others; ``[.., d]``, the batch flattened or not."""
    tokens = base.numel() // base.shape[-1] // len(rows)
    chosen = rows.to(base.device).repeat_interleave(tokens).view(*base.shape[:-1], 1)
    return torch.where(chosen, routed, base)


class WrappedLinear(nn.Module):
    """A linear layer of the base model, ``W``, shared and never copied, with something of ours around it.

    Args:
        base_layer: ``W``: a linear layer, GPT-2's ``Conv1D`` or a quantized linear layer.
        in_features: ``d_in``.
        out_features: ``d_out``.
        scope: what the layers of one model share.
    """

    def __init__(self, base_layer: nn.Module, in_features: int, out_features: int, scope: RoutingScope) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = in_features, out_features
        self.scope = scope

    @property
    def weight(self) -> Tensor:
        """``W``'s own weight: some modelling code looks at its type or device."""
        weight = self.base_layer.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        """``W``'s own bias."""
        bias = getattr(self.base_layer, "bias", None)
        assert bias is None or isinstance(bias, Tensor)
        return bias


class LoraHolder:
    """Takes over and gives back a LoRA that is kept as ``A [r, d_in]``, ``down``, and ``s·Bᵀ [r, d_out]``, ``up``."""

    down: Tensor
    up: Tensor
    scaling: float

    @torch.no_grad()
    def set_lora(self, lora_a: Tensor, lora_b: Tensor) -> None:
        """Take over a LoRA: ``A [r, d_in]`` and ``B [d_out, r]``, unscaled."""
        self.down.copy_(lora_a)
        self.up.copy_(lora_b.to(self.up.device, torch.float32).t() * self.scaling)

    def lora(self) -> tuple[Tensor, Tensor]:
        """``A [r, d_in]`` and the unscaled ``B [d_out, r]``, the latter in float32, as copies."""
        return self.down.detach().clone(), (self.up.detach().float() / self.scaling).t().contiguous()


class AdaptedLinear(LoraHolder, WrappedLinear):
    """A linear layer of the backbone with a LoRA that is active while the model routes (MoGU V2).

    .. code-block:: text

        y = W(x) + s·B A x      in mode "on"
        y = W(x)                in every other mode

    ``A`` is ``[r, d_in]``; ``s·Bᵀ`` is kept as one ``[r, d_out]`` matrix. In training both are float32, whatever the base's type; products
    are computed in the base's.

    Args:
        base_layer: ``W``.
        in_features: ``d_in``.
        out_features: ``d_out``.
        config: rank and scaling.
        scope: what the layers of one model share.
        dtype: type of the added weights, the one in which ``base_layer`` computes.
        device: device of the added weights.
    """

    def __init__(
        self,
        base_layer: nn.Module,
        in_features: int,
        out_features: int,
        config: BackboneConfig,
        scope: RoutingScope,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(base_layer, in_features, out_features, scope)
        self.rank, self.scaling = config.rank, config.scaling
        self.down = nn.Parameter(torch.zeros(config.rank, in_features, dtype=dtype, device=device), requires_grad=False)
        self.up = nn.Parameter(torch.zeros(config.rank, out_features, dtype=dtype, device=device), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [.., d_in]`` to ``y [.., d_out]``."""
        modules: Mapping[str, Any] = self._modules  # straight from its tables, as in the routed layer below
        base_output: Tensor = modules["base_layer"](x)
        controller = current_controller(self.scope)
        if controller.mode != "on":
            return base_output
        parameters: Mapping[str, Any] = self._parameters
        # In training the weights are float32, and few: casting them is cheap, casting what goes in and comes out is not.
        down, up = _cast(parameters["down"], x.dtype), _cast(parameters["up"], base_output.dtype)
        hidden = _cast(F.linear(x, down), base_output.dtype)
        flat = torch.addmm(base_output.reshape(-1, self.out_features), hidden.reshape(-1, self.rank), up)
        adapted = flat.view_as(base_output)
        return adapted if controller.rows is None else by_row(controller.rows, adapted, base_output)

    def start_training(self) -> None:
        """Begin anew, as PEFT starts a LoRA, ``A`` random and ``B`` zero, with weights that are trained."""
        self._dtype = self.down.dtype
        down = torch.zeros_like(self.down, dtype=torch.float32)
        if not down.is_meta:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        self.down, self.up = nn.Parameter(down), nn.Parameter(torch.zeros_like(self.up, dtype=torch.float32))

    def finish_training(self) -> None:
        """Freeze the weights, in the base's type."""
        self.down = nn.Parameter(self.down.detach().to(self._dtype), requires_grad=False)
        self.up = nn.Parameter(self.up.detach().to(self._dtype), requires_grad=False)


class RoutedLinear(WrappedLinear):
    """Attention output projection with routing (MoGU, section 3.2; names as there).

    .. code-block:: text

        α = σ(v_u·x + c_u + δ)     β = σ(v_g·x + c_g − δ)
        y = (α + β)·W(x) + s·(α·B_u A_u x + β·B_g A_g x)

    ``[A_u; A_g; v_u; v_g]`` is kept as one ``[2r+2, d_in]`` matrix, so that a single product yields both low-rank
    activations and both router logits, and ``s·[B_u, B_g]ᵀ`` as one ``[2r, d_out]`` matrix. ``W`` (with its bias, where
    it has one) stays in ``base_layer``.

    Args:
        base_layer: ``W``; in MoGU V2 the adapted one, so that what is scaled by ``α + β`` is the adapted product.
        in_features: ``d_in``.
        out_features: ``d_out``.
        config: rank, scaling, dial and router kind.
        scope: what the layers of one model share.
        dtype: type of the added weights, the one in which ``base_layer`` computes.
        device: device of the added weights.
    """

    routers: nn.ModuleDict | None
    down: Tensor
    up: Tensor
    router_bias: Tensor
    _down_bias: Tensor

    def __init__(
        self,
        base_layer: nn.Module,
        in_features: int,
        out_features: int,
        config: MoguConfig,
        scope: RoutingScope,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(base_layer, in_features, out_features, scope)
        self.rank, self.scaling = config.rank, config.scaling
        self.dial = config.dial
        self.index = scope.add_layer()
        self.register_module("routers", None)
        rank = self.rank
        down = torch.zeros(2 * rank + 2, in_features, dtype=dtype, device=device)
        if not down.is_meta:
            for rows in (down[:rank], down[rank : 2 * rank]):
                nn.init.kaiming_uniform_(rows, a=math.sqrt(5))  # as PEFT starts a LoRA: A random, B zero
        self.down = nn.Parameter(down, requires_grad=False)
        self.up = nn.Parameter(torch.zeros(2 * rank, out_features, dtype=dtype, device=device), requires_grad=False)
        # Kept apart in float32, so that turning the dial to and fro never accumulates rounding.
        self.router_bias = nn.Parameter(torch.zeros(2, dtype=torch.float32, device=device), requires_grad=False)
        self.register_buffer("_down_bias", torch.zeros(2 * rank + 2, dtype=dtype, device=device), persistent=False)
        self._refresh_bias()

    @property
    def routing_weights(self) -> Tensor | None:
        """α and β of the last routed pass, ``[.., 2]`` (unwill, glad), with their graph while training."""
        return current_controller(self.scope).records[self.index].weights

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [.., d_in]`` to ``y [.., d_out]``; with routing off exactly ``W(x)``."""
        # A module finds its weights by way of Python code, which costs a third of all that routing adds to a decoding
        # step; its own tables give them at once.
        modules: Mapping[str, Any] = self._modules
        parameters: Mapping[str, Any] = self._parameters
        buffers: Mapping[str, Any] = self._buffers
        base_output: Tensor = modules["base_layer"](x)
        controller = current_controller(self.scope)
        mode = controller.mode
        if mode == "off":
            return base_output
        if mode != "on":
            return base_output + self._responder_output(x, mode).to(base_output.dtype)
        # Every operation here is paid once a layer and token: hence few of them, and no `to` that changes nothing.
        down, up, down_bias = parameters["down"], parameters["up"], buffers["_down_bias"]
        if modules["routers"] is not None:
            down, down_bias = self._fresh_routing_matrix(modules["routers"], self.dial if controller.dial is None else controller.dial)
        # The bias is read before the dial, and written after it: a dial that another thread turns meanwhile is noticed here.
        elif controller.dial is not None and controller.dial != self.dial:
            down_bias = self._bias_at(controller.dial, down_bias)
        projected = F.linear(_cast(x, down.dtype), down, down_bias)
        controller.records[self.index].weights = weights = projected[..., -2:].sigmoid()
        gated = projected[..., :-2].view(-1, 2, self.rank) * weights.view(-1, 2, 1)
        update = _cast(torch.mm(gated.view(-1, 2 * self.rank), up), base_output.dtype).view_as(base_output)
        # In place on the update just made, which no gradient needs; the base's own output belongs to others.
        routed = update.addcmul_(base_output, _cast(weights.sum(-1, keepdim=True), base_output.dtype))
        return routed if controller.rows is None else by_row(controller.rows, routed, base_output)

    def _responder_output(self, x: Tensor, mode: str) -> Tensor:
        part = slice(0, self.rank) if mode == "unwill" else slice(self.rank, 2 * self.rank)
        return F.linear(x.to(self.down.dtype), self.down[part]) @ self.up[part]

    def _fresh_routing_matrix(self, routers: nn.ModuleDict, dial: float) -> tuple[Tensor, Tensor]:
        """``[A_u; A_g; v_u; v_g]`` and its bias, folded anew from routers in training."""
        (unwill_vector, unwill_bias), (glad_vector, glad_bias) = self._fold(routers)
        responders = self.down[: 2 * self.rank]
        vectors = torch.stack([unwill_vector, glad_vector]).to(responders.dtype)
        biases = torch.stack([unwill_bias + dial, glad_bias - dial]).to(responders.dtype)
        return torch.cat([responders, vectors]), F.pad(biases, (2 * self.rank, 0))

    @staticmethod
    def _fold(routers: nn.ModuleDict) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        unwill, glad = routers["unwill"], routers["glad"]
        assert isinstance(unwill, ChainRouter | LinearRouter)
        assert isinstance(glad, ChainRouter | LinearRouter)
        return unwill.fold(), glad.fold()

    @torch.no_grad()
    def set_responder(self, name: Responder, lora_a: Tensor, lora_b: Tensor) -> None:
        """Take over a responder: ``A [r, d_in]`` and ``B [d_out, r]``, unscaled; the scaling is folded into ``up``."""
        part = slice(0, self.rank) if name == "unwill" else slice(self.rank, 2 * self.rank)
        self.down[part].copy_(lora_a)
        self.up[part].copy_(lora_b.to(self.up.device, torch.float32).t() * self.scaling)

    def responder(self, name: Responder) -> tuple[Tensor, Tensor]:
        """``A [r, d_in]`` and the unscaled ``B [d_out, r]`` of a responder, as copies.

        ``B`` comes in float32, so that dividing the scaling out and multiplying it in again changes nothing in half precision.
        """
        part = slice(0, self.rank) if name == "unwill" else slice(self.rank, 2 * self.rank)
        return self.down[part].detach().clone(), (self.up[part].detach().float() / self.scaling).t().contiguous()

    @torch.no_grad()
    def set_router(self, vectors: Tensor, biases: Tensor) -> None:
        """Take over folded routers: ``vectors [2, d_in]`` and ``biases [2]``, unwill first."""
        self.down[2 * self.rank :].copy_(vectors)
        self.router_bias.copy_(biases)
        self._refresh_bias()

    @torch.no_grad()
    def folded_router(self) -> tuple[Tensor, Tensor]:
        """``vectors [2, d_in]`` and ``biases [2]`` in float32; routers in training are folded in float64."""
        if self.routers is None:
            return self.down[2 * self.rank :].float().clone(), self.router_bias.clone()
        (unwill_vector, unwill_bias), (glad_vector, glad_bias) = self._fold(copy.deepcopy(self.routers).double())
        return torch.stack([unwill_vector, glad_vector]).float(), torch.stack([unwill_bias, glad_bias]).float()

    def set_dial(self, dial: float) -> None:
        """Set the logit shift ``δ``."""
        self.dial = dial
        self._refresh_bias()

    @torch.no_grad()
    def _refresh_bias(self) -> None:
        self._down_bias = self._bias_at(self.dial, self._down_bias)  # a new tensor: a pass in another thread may be using the old one

    def _bias_at(self, dial: float, like: Tensor) -> Tensor:
        """The bias ``[2r+2]`` of the stacked product at a dial, in the type of another such bias."""
        shift = torch.tensor([dial, -dial], dtype=torch.float32, device=self.router_bias.device)
        bias = torch.zeros_like(like)
        bias[2 * self.rank :].copy_(self.router_bias + shift)
        return bias

    def start_router_training(self, kind: RouterKind, hidden: int) -> None:
        """Put freshly initialized trainable routers, in float32, in the place of the folded ones."""
        device = self.down.device
        self.routers = nn.ModuleDict({name: make_router(kind, self.in_features, hidden).to(device) for name in ("unwill", "glad")})

    def finish_router_training(self) -> None:
        """Fold the trained routers and let go of them."""
        vectors, biases = self.folded_router()
        self.routers = None
        self.set_router(vectors, biases)
