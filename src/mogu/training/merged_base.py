"""A base model that is named by an adapter: merged into one ordinary model before training, which the hardened model can find again.

Knows where a run keeps it; how it is merged is the business of :mod:`mogu.hub`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self, TypeVar

from mogu.hub import adapted_base, merge_adapter
from mogu.training.recipe import ModelSection, RunSection


class _Recipe(Protocol):
    @property
    def model(self) -> ModelSection: ...

    @property
    def run(self) -> RunSection: ...

    def model_copy(self, *, update: dict[str, object]) -> Self: ...


RecipeT = TypeVar("RecipeT", bound=_Recipe)


def merged_base_folder(run: RunSection) -> Path:
    """Where the merged base of a run is kept: ``<output>-base``."""
    return run.output.with_name(run.output.name + "-base").absolute()


def with_merged_base(recipe: RecipeT) -> RecipeT:
    """Return a recipe whose base is a whole model: with ``model.merge_adapter``, the merged one, which is written unless it is there.

    Raises:
        MoguError: adapter or base cannot be loaded, or the merged model cannot be written.
    """
    if not recipe.model.merge_adapter:
        return recipe
    folder = merged_base_folder(recipe.run)
    merge_adapter(recipe.model.base, folder)
    return _with_base(recipe, str(folder))


def before_merging(recipe: RecipeT) -> RecipeT:
    """Return a recipe that names the adapter's own base, which has the shape of the merged one, for plans that write nothing.

    Raises:
        ModelFileError: the base that is named is no adapter.
    """
    return _with_base(recipe, adapted_base(recipe.model.base)) if recipe.model.merge_adapter else recipe


def _with_base(recipe: RecipeT, base: str) -> RecipeT:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"base": base, "merge_adapter": False})})
