"""Whether a base model has the weights that a saved model was trained on, told from a few numbers of each of them.

Of every floating-point parameter sixteen numbers are kept, evenly spread: some tens of kilobytes for a model of seven thousand million
parameters, read in well under a second, since nothing is summed or hashed. Fine-tuning changes every number of the weights it touches,
so that a fine-tuned base shows; a base whose weights differ in a few places that were not looked at does not. Knows tensors; knows
nothing of names or files of models.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from mogu.errors import ModelFileError
from mogu.modeling.sharding import whole

logger = logging.getLogger(__name__)

_NUMBERS = 16  # of each parameter


@torch.no_grad()
def sample_weights(parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Take ``[16]`` numbers of each floating-point parameter, in its own type, on the CPU; those kept outside memory are left out."""
    samples = {}
    for name, parameter in parameters:
        if parameter.is_meta or not parameter.is_floating_point() or parameter.element_size() < 2 or not parameter.numel():
            continue  # quantized weights are packed into integers, and differ from what they were made of
        weight = whole(parameter).detach()
        flat = weight.reshape(-1) if weight.is_contiguous() else weight.flatten()
        positions = torch.linspace(0, flat.numel() - 1, _NUMBERS, dtype=torch.float64).long().to(flat.device)
        samples[name] = flat[positions].cpu().clone()
    return samples


def differing_weights(saved: Mapping[str, Tensor], parameters: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the parameters whose numbers are not the saved ones.

    A base may be loaded in another floating-point type than in training: numbers are compared in the coarser of the two, where equal
    weights stay equal, and between bfloat16 and float16, neither of which holds the other, to the precision that both have.

    Args:
        saved: what :func:`sample_weights` took.
        parameters: those of the base model as it is now; what only one of the two has is not compared.
    """
    differing = []
    for name, sample in sample_weights(parameters).items():
        before = saved.get(name)
        if before is not None and (before.shape != sample.shape or not _equal(before, sample)):
            differing.append(name)
    return differing


def check_base_weights(
    saved: Mapping[str, Tensor], base: Iterable[tuple[str, Tensor]], *, name: str, trained_on: str, strict: bool
) -> None:
    """Warn of a base model whose weights are not those of training, or refuse it.

    Args:
        saved: what :func:`sample_weights` took in training; empty where nothing was kept.
        base: the parameters of the base model as it is now.
        name: of that base model.
        trained_on: the base model of training.
        strict: whether to refuse.

    Raises:
        ModelFileError: the weights differ, and ``strict`` is set.
    """
    differing = differing_weights(saved, base)
    if not differing:
        return
    found = (
        f"The base model {name} has other weights than {trained_on} had in training: {len(differing)} of {len(saved)} parameters differ, "
    )
    found += f"{differing[0]} among them"
    if strict:
        raise ModelFileError(
            found,
            expected="the base model as it was in training",
            action="load that one, or leave strict_base (--strict-base) out if this is meant",
        )
    logger.warning("%s. What was measured of the saved model may not hold on this base.", found)


def _equal(before: Tensor, now: Tensor) -> bool:
    if {before.dtype, now.dtype} == {torch.bfloat16, torch.float16}:
        return torch.allclose(before.float(), now.float(), rtol=2**-7, atol=1e-7)
    coarser = before.dtype if torch.finfo(before.dtype).bits <= torch.finfo(now.dtype).bits else now.dtype
    return torch.equal(before.to(coarser), now.to(coarser))
