"""Three-stage training (glad, unwill, router), the choice among trials, the plan of a run before it starts, and the baselines.

Importing this package does not import PyTorch: what needs it is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mogu.training.recipe import Recipe, read_recipe, recipe_from

if TYPE_CHECKING:
    from mogu.training.baselines import train_baselines
    from mogu.training.dry_run import Plan, plan
    from mogu.training.pipeline import harden
    from mogu.training.selection import DevMetrics, refused_on_dev

__all__ = ["DevMetrics", "Plan", "Recipe", "harden", "plan", "read_recipe", "recipe_from", "refused_on_dev", "train_baselines"]

_LAZY = {
    "DevMetrics": "mogu.training.selection",
    "Plan": "mogu.training.dry_run",
    "harden": "mogu.training.pipeline",
    "refused_on_dev": "mogu.training.selection",
    "plan": "mogu.training.dry_run",
    "train_baselines": "mogu.training.baselines",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'mogu.training' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
