"""Noise on the weights of a model's linear layers, put there for as long as a block runs.

Knows modules and their weights; knows nothing of what is measured meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from mogu.errors import ArchitectureError
from mogu.modeling.architectures import Projection


def weight_of(module: Projection) -> Tensor:
    """The weight that noise is put on.

    Raises:
        ArchitectureError: it is quantized, or not in memory.
    """
    weight = getattr(module.module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.dtype.itemsize < 2:
        raise ArchitectureError(
            f"The weight of {module.name} is quantized ({type(module.module).__name__})",
            expected="weights in float16, bfloat16 or float32, which noise can be added to and taken from again",
            action="measure the model that was quantized",
        )
    if weight.is_meta:
        raise ArchitectureError(
            f"The weight of {module.name} is kept outside memory",
            expected="a model that lies in memory as a whole",
            action="load it without offloading, on a machine with more memory or in bfloat16",
        )
    return weight


@contextmanager
def perturbed(modules: Sequence[Projection], *, strength: float, seed: int, draw: int) -> Iterator[None]:
    """``W + strength · ‖W‖ · E / ‖E‖`` in the place of each module's ``W``, with ``E`` drawn from a normal distribution.

    Norms are Frobenius'. ``E`` is decided by seed, draw and the module's name: a module gets the same noise whether it is perturbed
    alone or with others, and two modules never get the same. (The same numbers in all modules of one shape would make their noise
    pull one way when they are perturbed together.) Afterwards, whatever happened, the weights are what they were, bit for bit; until
    then a copy of each lies in the CPU's memory.

    Args:
        modules: which ones.
        strength: the noise's norm, relative to the weight's.
        seed: of all draws.
        draw: number of the draw.

    Raises:
        ArchitectureError: a weight is quantized, or not in memory.
    """
    weights = [weight_of(module) for module in modules]
    with ExitStack() as restored, torch.no_grad():
        for module, weight in zip(modules, weights, strict=True):
            kept = weight.to("cpu", copy=True)
            restored.callback(_put_back, weight, kept)
            weight.copy_(_noisy(weight, strength, _number(seed, draw, module.name)))
        yield


def _put_back(weight: Tensor, kept: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(kept)


def _noisy(weight: Tensor, strength: float, number: int) -> Tensor:
    exact = torch.promote_types(weight.dtype, torch.float32)
    random = torch.Generator(weight.device).manual_seed(number)
    noise = torch.randn(weight.shape, generator=random, device=weight.device)
    w = weight.to(exact)
    noisy: Tensor = w + noise * (strength * w.norm() / noise.norm())
    return noisy


def _number(seed: int, draw: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {draw} {name}".encode()).digest()[:7])
