"""A hardened model of a comparison, as the comparison sees it: a name, a base, a folder for each seed.

Knows what a comparison needs of such a model; saved models are in :mod:`mogu.evaluation.compare.saved_model`, others register
themselves with :data:`mogu.evaluation.registry.MODEL_SOURCES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.data import Record
from mogu.data.starter import STARTER
from mogu.evaluation.sources import RECORD_SOURCES
from mogu.files.locks import locked_in_turn
from mogu.inference.prompts import fixed_date
from mogu.modeling.config import MoguConfig
from mogu.recipes.settings import Quantization
from mogu.training import Recipe
from mogu.training.inputs import load_records
from mogu.training.starter import answered_pairs
from mogu.training.workspace import Workspace, date_of_run

logger = getLogger(__name__)


@dataclass(frozen=True)
class BaseSource:
    """Where the base model of a hardened model comes from.

    Args:
        path: folder or hub id.
        revision: its commit on the hub, ``None`` for the newest one or a folder.
        quantization: the bits that its linear layers are in when the model is trained; ``None`` where they are not quantized.
        weights: a few numbers of each of its weights, see :mod:`mogu.modeling.base_identity`; ``None`` where they were not kept.
    """

    path: str
    revision: str | None = None
    quantization: Quantization | None = None
    weights: Mapping[str, Tensor] | None = None


class HardenedModel(ABC):
    """One hardened model, which may be another one for each seed.

    Args:
        name: its name in files and options.
        label: what reports call it.
        trained_per_seed: whether each seed trains its own.
    """

    def __init__(self, name: str, label: str, *, trained_per_seed: bool) -> None:
        self.name, self.label, self.trained_per_seed = name, label, trained_per_seed

    @abstractmethod
    def base(self) -> BaseSource:
        """Where its base model is; built first where it has to be.

        Raises:
            MoguError: there is no such model, or it cannot be built.
        """

    def prompt(self) -> MoguConfig:
        """A config with the chat template and the system prompt that the model was trained with; by default the base model's own."""
        return MoguConfig()

    @abstractmethod
    def folder(self, seed: int) -> Path:
        """Where the saved model of a seed is."""

    @abstractmethod
    def recipe(self, seed: int) -> Recipe:
        """How the model of a seed is trained; baselines are trained on the same records, with the same settings.

        Raises:
            ConfigError: nothing says how.
        """

    @abstractmethod
    def records(self, recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Mapping[str, Sequence[Record]]:
        """The training records of its recipe, by split; the base model answers those that are built with its own answers."""

    @abstractmethod
    def train(self, seed: int, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Train the model of a seed unless it is there.

        Args:
            seed: which one.
            base: the base model; it stays as it is.
            tokenizer: its tokenizer.
        """


def recipe_records(
    recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> Mapping[str, Sequence[Record]]:
    """Read the records that a recipe names, by split; answers to the starter set are kept in a folder.

    Args:
        recipe: the recipe.
        base: its base model, which answers the starter set's benign instructions.
        tokenizer: its tokenizer.
        folder: where; two recipes need two, since settings decide what is asked.

    Raises:
        MoguError: they cannot be read.
    """
    name = str(recipe.data.train)
    if name in RECORD_SOURCES:
        return RECORD_SOURCES[name]()
    if recipe.data.train != STARTER:
        return load_records(recipe)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f".{folder.name}.lock")  # workers that train different seeds come here at the same time
    with locked_in_turn(lock, lambda: logger.info("Another worker reads or makes %s; waiting.", folder)):
        return _answered_records(recipe, base, tokenizer, folder)


def _answered_records(
    recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> Mapping[str, Sequence[Record]]:
    workspace = Workspace(folder, command="mogu compare")
    with workspace.locked(), fixed_date(date_of_run(workspace.folder)):
        return load_records(recipe, answered=answered_pairs(recipe, base, tokenizer, workspace))
