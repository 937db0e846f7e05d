"""What fine-tuning cannot do with a base model of which each process holds a part: whatever reads or changes its weights.

Knows settings; knows nothing of models.
"""

from __future__ import annotations

from mogu.errors import ConfigError
from mogu.finetuning.recipe import FinetuneRecipe
from mogu.finetuning.strategies import strategies_of
from mogu.processes import shards


def check_sharded(recipe: FinetuneRecipe, *, hardened: bool) -> None:
    """Refuse what needs the whole base model, in a run in which no process has it.

    Args:
        recipe: all settings.
        hardened: whether the model to tune is a hardened one, which is hardened again on its tuned base.

    Raises:
        ConfigError: the recipe asks for it.
    """
    if not shards():
        return
    safety = recipe.safety
    if recipe.tune.method == "full":
        asked = 'tune.method = "full" tunes all weights'
    elif hardened:
        asked = "model.base is a hardened model, whose base is merged with what was tuned"
    elif any(strategy.repair is not None for strategy in strategies_of(safety)):
        asked = f'safety.method = "{safety.method}" compares the weights of two models'
    elif safety.robust_modules is None and any(strategy.needs_robust_modules for strategy in strategies_of(safety)):
        asked = f'safety.method = "{safety.method}" looks for robust modules by changing weights'
    else:
        return
    raise ConfigError(
        f"{asked}, and each process holds a part of them",
        expected="a LoRA on a plain model, and safety.method none or data-mix, or safety.robust_modules with it",
        action='start the processes by torchrun, so that each holds the whole model; or one process with model.device_map = "auto"',
    )
