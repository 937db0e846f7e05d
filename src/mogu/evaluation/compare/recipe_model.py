"""A model in a comparison that a recipe makes: trained for every seed, into the folder of the comparison.

Knows recipes and how one is carried out; what is compared, and how, is the business of the other files here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from logging import getLogger
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.data import Record
from mogu.evaluation.compare.config import Comparison
from mogu.evaluation.compare.hardened import BaseSource, HardenedModel, recipe_records
from mogu.modeling.checkpoint import CONFIG_FILE
from mogu.modeling.config import MoguConfig
from mogu.modeling.prompt_contract import record_prompt
from mogu.modeling.shared_weights import share_weights
from mogu.recipes import shipped_recipes
from mogu.training import Recipe, harden, read_recipe
from mogu.training.inputs import recipe_tokenizer

logger = getLogger(__name__)


def names_recipe(name: str) -> bool:
    """Whether a name among the models of a comparison is a recipe: a TOML file, or a shipped recipe of `mogu train`."""
    if Path(name).expanduser().is_dir():
        return False
    return name.endswith(".toml") or any(recipe.name == name and recipe.command == "train" for recipe in shipped_recipes())


def recipe_row(path: str) -> str:
    """What a recipe is called among the rows, and its files: ``v2-smollm2`` for ``v2/smollm2``, and ``mine`` for ``runs/mine.toml``."""
    return Path(path).stem if path.endswith(".toml") else path.replace("/", "-")


class RecipeModel(HardenedModel):
    """What a recipe makes.

    Args:
        path: the recipe: a TOML file, or the name of a shipped one.
        comparison: the settings of the comparison; its ``settings`` override the recipe's.
        name: its name there.
        label: what reports call it.
    """

    def __init__(self, path: str, comparison: Comparison, *, name: str, label: str) -> None:
        super().__init__(name, label, trained_per_seed=True)
        self.path, self.comparison = path, comparison

    def base(self) -> BaseSource:
        """The base model that the recipe names."""
        model = self.recipe(0).model
        return BaseSource(model.base, model.revision, model.quantization)

    def prompt(self) -> MoguConfig:
        """A config with the recipe's chat template and system prompt."""
        recipe, config = self.recipe(0), MoguConfig()
        record_prompt(config, recipe_tokenizer(recipe), recipe.model.system_prompt)
        return config

    def folder(self, seed: int) -> Path:
        """Where the model of a seed is trained into."""
        return self.comparison.out / "models" / f"{recipe_row(self.path)}-seed-{seed}"

    def recipe(self, seed: int) -> Recipe:
        """The recipe with the comparison's overrides, for a seed."""
        output = json.dumps(str(self.folder(seed)))
        return read_recipe(Path(self.path), [*self.comparison.settings, f"run.output={output}", f"run.seed={seed}"])

    def records(self, recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Mapping[str, Sequence[Record]]:
        """The records that the recipe names, the same for every seed."""
        return recipe_records(recipe, base, tokenizer, self.comparison.out / "records" / self.name)

    def train(self, seed: int, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Carry the recipe out, unless that is done."""
        recipe = self.recipe(seed)
        if (recipe.run.output / CONFIG_FILE).is_file():
            return
        logger.info("Seed %d: %s is trained", seed, self.name)
        records = dict(self.records(recipe, base, tokenizer))
        harden(recipe, base=share_weights(base), tokenizer=tokenizer, records=records, resume=True)
