"""How the passes of one call are routed: their mode, the rows of the batch that are routed, the dial, and the weights they recorded.

A call is one ``generate``, one ``score`` or one ``with model.routing(...)`` block. Its controller belongs to the thread that makes the
call; the layers, which all threads share, look it up there and keep nothing themselves. Knows nothing of what a layer computes, of
tokens or of caches.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from mogu.errors import ConfigError

RoutingMode = Literal["on", "off", "glad", "unwill", "careful"]
ROUTING_MODES: tuple[str, ...] = get_args(RoutingMode)
_NO_EXPERTS: Mapping[str, Tensor | None] = MappingProxyType({})


class TapReader(Protocol):
    """Hears what the tapped decoder layers of a gated model hand upward."""

    def read(self, tap: int, hidden: Tensor) -> None:
        """Take the hidden states ``[batch, tokens, d]`` of a tap, in a pass."""


@dataclass
class LayerRecord:
    """What the last routed pass of a call left at one layer.

    Args:
        weights: α and β, ``[batch, tokens, 2]`` (unwill, glad), with their graph while training; ``None`` before the first routed pass.
    """

    weights: Tensor | None = None


class RoutingController:
    """The routing of one call.

    Args:
        scope: the layers that it steers.
        mode: ``"on"``, ``"off"``, or one responder alone.
        rows: in mode ``"on"``, which rows of the batch are routed, bool ``[batch]``, the others being as in mode ``"off"``;
            ``None`` is every row.
        dial: the logit shift ``δ`` of this call; ``None`` is whatever the layers are set to.
    """

    def __init__(self, scope: RoutingScope, mode: RoutingMode = "on", *, rows: Tensor | None = None, dial: float | None = None) -> None:
        self.scope = scope
        self.mode = mode
        self.rows = rows
        self.dial = dial
        self.records = [LayerRecord() for _ in range(scope.layers)]
        self.experts: Mapping[str, Tensor | None] = _NO_EXPERTS
        """In mode ``"on"``, the experts of a gated model that are on, each for some rows, bool ``[batch]``, or for every row."""
        self.reader: TapReader | None = None
        """Who hears the taps of a gated model in this call."""
        self.outer: RoutingController | None = None
        self.lasting = False

    def __enter__(self) -> RoutingController:
        self.outer = THIS_THREAD.controller
        THIS_THREAD.controller = self
        return self

    def __exit__(self, *_: object) -> None:
        THIS_THREAD.controller = self.outer
        if any(record.weights is not None for record in self.records):
            # Whoever made the call may still ask for the weights of its last pass.
            current_controller(self.scope).records = self.records

    def experts_on(self) -> Mapping[str, Tensor | None]:
        """The experts of a gated model that are on in the pass at hand, each with its rows, or ``None`` for every row."""
        if self.mode == "on":
            return self.experts
        return _NO_EXPERTS if self.mode == "off" else {self.mode: None}

    def routing_weights(self, device: torch.device) -> dict[str, Tensor]:
        """``{"unwill": α, "glad": β}`` of the last routed pass, each ``[layers, batch, tokens]``.

        Raises:
            ConfigError: no pass has been routed yet.
        """
        stacked = torch.stack([weights.to(device) for weights in self._recorded()])
        return {"unwill": stacked[..., 0], "glad": stacked[..., 1]}

    def last_token_weights(self, device: torch.device) -> dict[str, Tensor]:
        """``{"unwill": α, "glad": β}`` at the last token of the last routed pass, each ``[layers, batch]``, float32.

        Raises:
            ConfigError: no pass has been routed yet.
        """
        last = torch.stack([weights[..., -1, :].detach().float().to(device) for weights in self._recorded()])
        return {"unwill": last[..., 0], "glad": last[..., 1]}

    def _recorded(self) -> Sequence[Tensor]:
        weights = [record.weights for record in self.records if record.weights is not None]
        if not weights or len(weights) < len(self.records):
            raise ConfigError("No routed pass has been made", expected="a forward pass with routing on", action="call the model first")
        return weights


_NUMBERS = itertools.count()


class RoutingScope:
    """What the routed and adapted layers of one model share: how many are routed, and the controller of passes that no call steers.

    Args:
        layers: how many layers are routed.
    """

    def __init__(self, layers: int = 0) -> None:
        self.layers = layers
        self.key = f"scope {next(_NUMBERS)}"
        self.default = RoutingController(self)
        self._own = threading.local()
        self._any: dict[str, Tensor] | None = None
        self._any_scores: Tensor | None = None

    def add_layer(self) -> int:
        """Count one more routed layer; returns its index among them."""
        self.layers += 1
        self.default.records.append(LayerRecord())
        return self.layers - 1

    @property
    def prompt_weights(self) -> dict[str, Tensor] | None:
        """α and β at the last prompt tokens of this thread's last generation; of any thread's, where this one has made none."""
        weights: dict[str, Tensor] | None = getattr(self._own, "prompt_weights", self._any)
        return weights

    @prompt_weights.setter
    def prompt_weights(self, weights: dict[str, Tensor] | None) -> None:
        self._own.prompt_weights = self._any = weights

    @property
    def prompt_scores(self) -> Tensor | None:
        """Of a gated model, the probabilities of the prompts of this thread's last generation; of any thread's, where it made none."""
        scores: Tensor | None = getattr(self._own, "prompt_scores", self._any_scores)
        return scores

    @prompt_scores.setter
    def prompt_scores(self, scores: Tensor | None) -> None:
        self._own.prompt_scores = self._any_scores = scores

    def __reduce__(self) -> tuple[Any, ...]:
        return RoutingScope, (self.layers,)  # a copied model begins with no calls


class _Thread(threading.local):
    """The controller of the call that this thread is making. (PyTorch's compiler follows ``threading.local``, but no context variable.)"""

    controller: RoutingController | None = None


THIS_THREAD = _Thread()


def current_controller(scope: RoutingScope) -> RoutingController:
    """The controller that steers a model's layers in this thread: of its innermost call, or the model's default one."""
    controller = THIS_THREAD.controller
    # PyTorch's compiler looks at texts again in every pass; of objects that are compared by identity it keeps what it once saw.
    while controller is not None and controller.scope.key != scope.key:
        controller = controller.outer
    return scope.default if controller is None else controller


class RoutingBlock(AbstractContextManager[RoutingController]):
    """What :meth:`mogu.MoguModel.routing` returns: a mode for a ``with`` block, or, where it heads none, for the rest of the thread.

    Args:
        controller: the controller of the block.
    """

    def __init__(self, controller: RoutingController) -> None:
        self._controller = controller
        self._target = _controller_to_change(controller.scope)
        self._before = self._target.mode, self._target.rows, self._target.dial
        self._set(controller.mode, controller.rows, controller.dial)

    def __enter__(self) -> RoutingController:
        self._set(*self._before)
        return self._controller.__enter__()

    def __exit__(self, *error: object) -> None:
        self._controller.__exit__(*error)

    def _set(self, mode: RoutingMode, rows: Tensor | None, dial: float | None) -> None:
        self._target.mode, self._target.rows, self._target.dial = mode, rows, dial


def _controller_to_change(scope: RoutingScope) -> RoutingController:
    """The innermost controller of a model in this thread; where it has none, one that lasts, put outermost."""
    _drop_idle()
    current = current_controller(scope)
    if current is not scope.default:
        return current
    lasting = RoutingController(scope)
    lasting.lasting, lasting.records = True, scope.default.records
    outermost = THIS_THREAD.controller
    if outermost is None:
        THIS_THREAD.controller = lasting
        return lasting
    while outermost.outer is not None:
        outermost = outermost.outer
    outermost.outer = lasting
    return lasting


def _drop_idle() -> None:
    """Forget controllers that last and do what the default ones do, so that a thread does not hold on to every model it has used."""
    inner, controller = None, THIS_THREAD.controller
    while controller is not None:
        idle = controller.lasting and (controller.mode, controller.rows, controller.dial) == ("on", None, None)
        if not idle:
            inner = controller
        elif inner is None:
            THIS_THREAD.controller = controller.outer
        else:
            inner.outer = controller.outer
        controller = controller.outer
