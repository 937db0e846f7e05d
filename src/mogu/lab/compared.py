"""The lab's models in a comparison: MoGU by each of its methods, trained for every seed with the lab's recipe.

Knows how the lab hardens its model; what is compared, and how, is evaluation's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import getLogger
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.data import Record
from mogu.evaluation.compare.config import Comparison
from mogu.evaluation.compare.hardened import BaseSource, HardenedModel
from mogu.evaluation.sources import RECORD_SOURCES
from mogu.lab.demo import lab_recipe
from mogu.lab.recipe import build_base
from mogu.modeling.checkpoint import CONFIG_FILE
from mogu.modeling.config import Method
from mogu.modeling.shared_weights import share_weights
from mogu.recipes.settings import override
from mogu.training import Recipe, harden
from mogu.training.recipe import has_section, recipe_from

logger = getLogger(__name__)

_ROWS: dict[Method, tuple[str, str]] = {"v1": ("mogu", "MoGU"), "v2": ("mogu_v2", "MoGU V2"), "gated": ("mogu_gated", "MoGU, gated")}


class LabModel(HardenedModel):
    """The lab's model, hardened by one method.

    Args:
        comparison: the settings of the comparison; its ``settings`` override the lab's recipe.
        method: ``"v1"``, ``"v2"`` or ``"gated"``.
    """

    def __init__(self, comparison: Comparison, method: Method) -> None:
        name, label = _ROWS[method]
        super().__init__(name, label, trained_per_seed=True)
        self.comparison, self.method = comparison, method

    def base(self) -> BaseSource:
        """The lab's base model, which is built if it is not in the cache."""
        return BaseSource(str(build_base()))

    def folder(self, seed: int) -> Path:
        """Where the model of a seed is trained into."""
        return self.comparison.out / "models" / f"seed-{seed}{'' if self.method == 'v1' else f'-{self.method}'}"

    def recipe(self, seed: int) -> Recipe:
        """The lab's recipe, with the comparison's overrides of sections that the method has."""
        tree = lab_recipe(build_base(), self.folder(seed), seed=seed, method=self.method).model_dump()
        for setting in self.comparison.settings:
            if has_section(self.method, setting.partition(".")[0]):
                override(tree, setting)
        return recipe_from(tree, source="of the lab")

    def records(self, recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Mapping[str, Sequence[Record]]:
        """The lab's training records, by the name that the recipe has for them."""
        return RECORD_SOURCES[str(recipe.data.train)]()

    def train(self, seed: int, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Harden the lab's base with a seed, unless that is done."""
        recipe = self.recipe(seed)
        if (recipe.run.output / CONFIG_FILE).is_file():
            return
        logger.info("Seed %d: %s is trained", seed, self.name)
        harden(recipe, base=share_weights(base), tokenizer=tokenizer, records=self.records(recipe, base, tokenizer), resume=True)
