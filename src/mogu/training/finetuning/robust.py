"""Which modules learn with the whole learning rate under ``ml-lr``.

Knows a file of names; knows nothing of how they were found.
"""

from __future__ import annotations

import json

from transformers import PreTrainedModel

from mogu.errors import ConfigError, DataError
from mogu.training.branch import Tell
from mogu.training.finetuning.inputs import TuningInputs
from mogu.training.finetuning.recipe import FinetuneRecipe


def robust_modules(recipe: FinetuneRecipe, base: PreTrainedModel, inputs: TuningInputs, tell: Tell) -> list[str]:
    """Full names of the robust modules, from the file that the recipe names.

    Raises:
        MoguError: there is no such file, or it names no modules.
    """
    file = recipe.safety.robust_modules
    if file is None:
        raise ConfigError("ml-lr has no robust modules", expected="safety.robust_modules", action="name a file")
    try:
        names = json.loads(file.read_text(encoding="utf-8"))["robust"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} names no robust modules: {error!r}", expected="a robustness.json of `mogu robustness`", action="run that command"
        ) from error
    return [str(name) for name in names]
