"""What tuning did to each linear module, as a matrix that can be looked at and changed from the left.

Knows how a LoRA and full tuning hold an update; does not know why one is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mogu.finetuning.tuner import Tuner

Change = Callable[[Tensor], Tensor]
"""A linear map of columns: ``[d_out, n]`` to ``[d_out, n]`` for any ``n``, such as a product with a matrix from the left."""


@dataclass(frozen=True)
class LoraUpdate:
    """``ΔW = scale · B A`` of a LoRA.

    Args:
        a: ``A``, ``[rank, d_in]``.
        b: ``B``, ``[d_out, rank]``.
        scale: ``lora_alpha / rank``.
    """

    a: nn.Parameter
    b: nn.Parameter
    scale: float

    def matrix(self) -> Tensor:
        """``ΔW``, ``[d_out, d_in]``, in float32 on the CPU."""
        return self.scale * _plain(self.b) @ _plain(self.a)

    def change(self, change: Change) -> None:
        """Replace ``ΔW`` by ``change(ΔW)``, which is ``scale · change(B) A``: what was a LoRA stays one, of the same rank."""
        _set(self.b, change(_plain(self.b)))


@dataclass(frozen=True)
class FullUpdate:
    """``ΔW = W − start`` of a weight that was tuned itself.

    Args:
        weight: ``W``, ``[d_out, d_in]``, or its transpose.
        start: what it was before.
        transposed: whether both are transposes, as GPT-2's ``Conv1D`` keeps them.
    """

    weight: nn.Parameter
    start: Tensor
    transposed: bool

    def matrix(self) -> Tensor:
        """``ΔW``, ``[d_out, d_in]``, in float32 on the CPU."""
        delta = _plain(self.weight) - _plain(self.start)
        return delta.T if self.transposed else delta

    def change(self, change: Change) -> None:
        """Replace ``ΔW`` by ``change(ΔW)``."""
        delta = change(self.matrix())
        _set(self.weight, _plain(self.start) + (delta.T if self.transposed else delta))


def module_updates(tuner: Tuner, modules: Iterable[str], *, transposed: bool) -> dict[str, LoraUpdate | FullUpdate]:
    """Find the updates of those modules that are tuned, by their full names.

    Args:
        tuner: with the tuned values in the model.
        modules: full names of linear modules.
        transposed: whether the model keeps weights as ``[d_in, d_out]``.
    """
    trained = tuner.trained()
    if tuner.tune.method == "full":
        weights = {module: f"{module}.weight" for module in modules}
        return {module: FullUpdate(trained[name], tuner.start[name], transposed) for module, name in weights.items() if name in trained}
    scale = tuner.tune.lora_alpha / tuner.tune.rank
    halves = {
        module: [next((trained[name] for name in trained if f".{module}.lora_{half}." in name), None) for half in "AB"]
        for module in modules
    }
    return {module: LoraUpdate(a, b, scale) for module, (a, b) in halves.items() if a is not None and b is not None}


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().float()


@torch.no_grad()
def _set(parameter: nn.Parameter, value: Tensor) -> None:
    parameter.copy_(value)
