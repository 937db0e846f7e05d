"""Add noise to the weights of a model's linear layers for the duration of a block.

Knows modules and their weights; knows nothing of what is measured in the block.
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
    """Return the weight that noise is added to.

    Raises:
        ArchitectureError: it is quantized, or not in memory.
    """
    weight = getattr(module.module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.dtype.itemsize < 2:
        raise ArchitectureError(
            f"The weight of {module.name} is quantized ({type(module.module).__name__})",
            expected="weights in float16, bfloat16 or float32, to which noise can be added",
            action="measure the model that it was quantized from",
        )
    if weight.is_meta:
        raise ArchitectureError(
            f"The weight of {module.name} is kept outside memory",
            expected="a model that is in memory as a whole",
            action="load it without offloading, on a machine with more memory or in bfloat16",
        )
    return weight


@contextmanager
def perturbed(modules: Sequence[Projection], *, strength: float, seed: int, draw: int) -> Iterator[None]:
    """Replace each module's ``W`` by ``W + strength · ‖W‖ · E / ‖E‖``, with ``E`` drawn from a normal distribution.

    Norms are Frobenius norms. ``E`` depends on the seed, the draw and the module's name: a module gets the same noise whether it is
    perturbed alone or with others, and no two modules get the same. (With the same numbers in all modules of one shape, their noise
    would push in one direction when they are perturbed together.) Afterwards the weights are restored bit for bit, whatever happened;
    until then the CPU's memory holds a copy of each.

    Args:
        modules: the modules to perturb.
        strength: norm of the noise, relative to the norm of the weight.
        seed: the seed of all draws.
        draw: number of the draw.

    Raises:
        ArchitectureError: a weight is quantized, or not in memory.
    """
    weights = [weight_of(module) for module in modules]
    with ExitStack() as restored, torch.no_grad():
        for module, weight in zip(modules, weights, strict=True):
            original = weight.to("cpu", copy=True)
            restored.callback(_restore, weight, original)
            weight.copy_(_noisy(weight, strength, _noise_seed(seed, draw, module.name)))
        yield


def _restore(weight: Tensor, original: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(original)


def _noisy(weight: Tensor, strength: float, seed: int) -> Tensor:
    exact = torch.promote_types(weight.dtype, torch.float32)
    generator = torch.Generator(weight.device).manual_seed(seed)
    noise = torch.randn(weight.shape, generator=generator, device=weight.device)
    w = weight.to(exact)
    noisy: Tensor = w + noise * (strength * w.norm() / noise.norm())
    return noisy


def _noise_seed(seed: int, draw: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {draw} {name}".encode()).digest()[:7])
