"""Instruction fine-tuning, and strategies that keep a model as safe as it was.

Importing this package does not import PyTorch: what needs it is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mogu.finetuning.recipe import FinetuneRecipe, finetune_recipe_from, read_finetune_recipe

if TYPE_CHECKING:
    from mogu.finetuning.dry_run import TuningPlan, plan_tuning
    from mogu.finetuning.pipeline import finetune

__all__ = ["FinetuneRecipe", "TuningPlan", "finetune", "finetune_recipe_from", "plan_tuning", "read_finetune_recipe"]

_LAZY = {
    "TuningPlan": "mogu.finetuning.dry_run",
    "finetune": "mogu.finetuning.pipeline",
    "plan_tuning": "mogu.finetuning.dry_run",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'mogu.finetuning' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
