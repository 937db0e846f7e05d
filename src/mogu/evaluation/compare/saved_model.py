"""A saved MoGU model in a comparison: a folder or a repository of the hub, the same under every seed.

Knows saved models and their training reports; trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.data import Record
from mogu.errors import ConfigError
from mogu.evaluation.compare.config import Comparison
from mogu.evaluation.compare.hardened import BaseSource, HardenedModel, recipe_records
from mogu.hub import fetch_model_folder, read_template
from mogu.modeling.adapter_files import read_tensors
from mogu.modeling.base_model import base_name
from mogu.modeling.checkpoint import CONFIG_FILE, IDENTITY_FILE, read_config
from mogu.modeling.config import MoguConfig
from mogu.modeling.prompt_contract import with_system_prompt
from mogu.recipes import shipped_template
from mogu.training import Recipe
from mogu.training.recipe import recipe_from
from mogu.training.report import REPORT_FILE, read_report


class SavedModel(HardenedModel):
    """A saved model; nothing is read before it is needed.

    Args:
        path: its folder, or its repository on the hub.
        comparison: the settings of the comparison.
        name: its name there.
        label: what reports call it.
    """

    def __init__(self, path: str, comparison: Comparison, *, name: str, label: str) -> None:
        super().__init__(name, label, trained_per_seed=False)
        self.path, self.comparison = path, comparison

    @cached_property
    def _folder(self) -> Path:
        return fetch_model_folder(self.path, marker=CONFIG_FILE)

    def folder(self, seed: int) -> Path:
        """The folder of the model."""
        return self._folder

    def base(self) -> BaseSource:
        """The base model that its config names, or the one that the comparison names in its place."""
        config, moved = read_config(self._folder), self.comparison.base_model
        weights = self._folder / IDENTITY_FILE
        return BaseSource(
            base_name(self._folder, config, moved),
            config.base_revision if moved is None else None,
            config.base_quantization,
            read_tensors(weights) if weights.is_file() else None,
        )

    def prompt(self) -> MoguConfig:
        """Its config; of formats 1 and 2, which hold no template, with the one that its training report names."""
        config, template = read_config(self._folder), self._reported_template()
        if config.chat_template is not None or template is None:
            return config
        text = with_system_prompt(read_template(template), config.system_prompt)
        return config.model_copy(update={"chat_template": text})

    def recipe(self, seed: int) -> Recipe:
        """The recipe in its training report, with another seed.

        Raises:
            ConfigError: there is no report.
        """
        report = read_report(self._folder)
        if report is None:
            raise ConfigError(
                f"{self._folder} holds no {REPORT_FILE}, which says how to train baselines beside it",
                expected="a model as `mogu train` writes it",
                action="name trained baselines with --baselines DIR, or choose --defenses that need none",
            )
        recipe = recipe_from(report["recipe"], source=str(self._folder / REPORT_FILE))
        run = recipe.run.model_copy(update={"seed": seed, "output": self._folder})
        return recipe.model_copy(update={"run": run})

    def records(self, recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Mapping[str, Sequence[Record]]:
        """The records that its recipe names."""
        return recipe_records(recipe, base, tokenizer, self.comparison.out / "records" / self.name)

    def train(self, seed: int, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Nothing: it is trained already."""

    def _reported_template(self) -> Path | None:
        report = read_report(self._folder)
        path = report["recipe"]["model"]["chat_template"] if report is not None else None
        if path is None:
            return None
        return Path(path) if Path(path).is_file() else shipped_template(Path(path))


def folder_name(path: str) -> str:
    """What a saved model is called among several: the last part of its path or hub id."""
    folder = Path(path).expanduser()
    return folder.resolve().name if folder.exists() else folder.name
