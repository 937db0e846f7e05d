"""Repair a tuned model along its alignment: Safe LoRA (arXiv 2405.16833) and SafeMERGE (arXiv 2503.17239).

For a linear module with weight ``W`` of the aligned model, which is the one that is tuned, and ``W_unaligned`` of the same model before
it was aligned, and for the update ``ΔW`` that tuning came to, all ``[d_out, d_in]``:

.. code-block:: text

    V   = W − W_unaligned                                     what alignment changed
    C   = V Vᵀ / ‖V‖                                          [d_out, d_out], Frobenius norm
    ρ   = ⟨C ΔW, ΔW⟩ / (‖C ΔW‖ · ‖ΔW‖)                        in [0, 1]: C is positive semidefinite
    safe-lora:  ΔW ← C ΔW         where ρ < threshold
    safe-merge: ΔW ← weight · ΔW  where ρ < threshold

``C`` is the approximation that Safe LoRA proposes and publishes, not the projection ``V (VᵀV)⁻¹ Vᵀ``, which is the identity where ``V`` is
square and of full rank. It is not idempotent, and scales with ``‖V‖``: where alignment moved a module little, what remains of ``ΔW``
is small. SafeMERGE merges with a model that was tuned to be safe; as no such model is asked for here, this one merges with the model
before tuning, whose update is 0. A module that alignment did not change has no ``C`` and stays as tuned; so do embeddings, norms, biases
and head.

Knows weights; knows nothing of data, nor of what is measured afterward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mogu.analysis.robustness.map import linear_modules
from mogu.analysis.robustness.noise import weight_of
from mogu.errors import ModelFileError
from mogu.finetuning.strategies import Repair
from mogu.finetuning.tuner import Tuner
from mogu.finetuning.updates import module_updates


@dataclass(frozen=True)
class Alignment:
    """What alignment changed in each linear module of the decoder layers.

    Args:
        directions: ``V`` by full module name, ``[d_out, d_in]``, float32, on the CPU; only where it is not 0.
        transposed: whether the model keeps its weights as ``[d_in, d_out]``, as GPT-2 does.
    """

    directions: Mapping[str, Tensor]
    transposed: bool

    @classmethod
    def between(cls, aligned: PreTrainedModel, unaligned: PreTrainedModel) -> Alignment:
        """Subtract the weights of the model before alignment from those after.

        Raises:
            ArchitectureError: a weight is quantized, or not in memory.
            ModelFileError: the two have other modules or shapes, or are the same model.
        """
        modules = {module.name: module for _, module in linear_modules(aligned)}
        others = {module.name: module for _, module in linear_modules(unaligned)}
        shapes, other_shapes = ({name: tuple(weight_of(module).shape) for name, module in of.items()} for of in (modules, others))
        if shapes != other_shapes:
            raise ModelFileError(
                f"The unaligned model has {len(others)} linear modules, the model that is tuned has {len(modules)}, and they differ",
                expected="the same model before it was aligned, with weights of the same shapes",
                action="correct safety.unaligned",
            )
        transposed = any(isinstance(module.module, Conv1D) for module in modules.values())
        directions = {}
        for name, module in modules.items():
            direction = weight_of(module).detach().cpu().float() - weight_of(others[name]).detach().cpu().float()
            if bool(direction.any()):
                directions[name] = direction.T if transposed else direction
        if not directions:
            raise ModelFileError(
                "The unaligned model has the weights of the model that is tuned",
                expected="the same model before it was aligned",
                action="correct safety.unaligned",
            )
        return cls(directions, transposed)

    def project(self, module: str, columns: Tensor) -> Tensor:
        """``C X`` for ``X`` of ``[d_out, n]``, without ``C`` itself, which may be larger than ``V``."""
        v = self.directions[module]
        projected: Tensor = v @ (v.T @ columns) / v.norm()
        return projected

    def similarity(self, module: str, update: Tensor) -> float:
        """``ρ`` of an update ``[d_out, d_in]``; 1 of one that is 0, which needs no repair."""
        projected = self.project(module, update)
        norms = float(projected.norm() * update.norm())
        if not norms:
            return 1.0 if not update.any() else 0.0
        return float((projected * update).sum()) / norms


@torch.no_grad()
def repair(tuner: Tuner, alignment: Alignment, how: Repair, threshold: float, weight: float) -> dict[str, float]:
    """Repair what was tuned, in place, in each module whose update is less similar to its projection than the threshold.

    Args:
        tuner: with the tuned values in its model.
        alignment: of the model that is tuned.
        how: ``"safe-lora"`` or ``"safe-merge"``.
        threshold: of the similarity ``ρ``.
        weight: for ``"safe-merge"``, the share of the update that is kept.

    Returns:
        ``ρ`` of every module that was repaired, by full name.
    """
    repaired = {}
    for module, update in module_updates(tuner, alignment.directions, transposed=alignment.transposed).items():
        similarity = alignment.similarity(module, update.matrix())
        if similarity < threshold:
            repaired[module] = similarity
            if how == "safe-lora":
                update.change(lambda columns, module=module: alignment.project(module, columns))  # type: ignore[misc]
            else:
                update.change(lambda columns: weight * columns)
    return repaired
