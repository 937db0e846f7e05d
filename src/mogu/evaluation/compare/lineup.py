"""Who is compared: each defense on the base model, and each hardened model, as rows of one table.

Knows names, labels and what a seed can change; loads and measures nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from logging import getLogger

from mogu.defenses import DefenseInfo, defense_info, defense_names
from mogu.errors import ConfigError, MoguError
from mogu.evaluation.compare.config import Comparison
from mogu.evaluation.compare.hardened import HardenedModel
from mogu.evaluation.compare.recipe_model import RecipeModel, names_recipe, recipe_row
from mogu.evaluation.compare.saved_model import SavedModel, folder_name
from mogu.evaluation.sources import MODEL_SOURCES

logger = getLogger(__name__)

MODEL_DEFENSE = "mogu"
"""The defense with which a hardened model replies."""


@dataclass(frozen=True)
class System:
    """One row of a comparison.

    Args:
        name: its name in files and results: the defense's, or the model's.
        label: what reports call it.
        defense: the defense that replies.
        model: the hardened model that it needs, of several the first; ``None`` for a defense on the base model.
    """

    name: str
    label: str
    defense: DefenseInfo
    model: HardenedModel | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether it replies the same under every seed: nothing is drawn, and nothing is trained for a seed."""
        trained = self.defense.part is not None or (self.model is not None and self.model.trained_per_seed)
        return self.defense.deterministic and not trained


@dataclass(frozen=True)
class Variant:
    """A row of a comparison, perhaps with its dial turned.

    Args:
        system: the row's name.
        shift: how far the dial ``δ`` is turned from the model's own; ``None`` where it is not.
    """

    system: str
    shift: float | None = None

    @property
    def name(self) -> str:
        """A name for files and logs."""
        return self.system if self.shift is None else f"{self.system}@{self.shift:+g}"


class Lineup:
    """The rows of a comparison, in the order of its report.

    Args:
        comparison: the settings.

    Raises:
        ConfigError: a defense is unknown, or two rows have the same name.
        MoguError: a defense that is asked for by name needs a package that is not installed. Where all are compared, it is left out.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.models = _hardened_models(comparison)
        names = {model.name for model in self.models}
        if unknown := [name for name in comparison.defenses if name not in names and name not in defense_names()]:
            known = [*(name for name in defense_names() if name != MODEL_DEFENSE), *(model.name for model in self.models)]
            raise ConfigError(
                f"There is no defense {unknown[0]!r}", expected=f"all, or some of {', '.join(known)}", action="correct the name"
            )
        self.systems: dict[str, System] = {}
        for name in defense_names():
            info = defense_info(name)
            if name == MODEL_DEFENSE:
                for model in filter(self._is_chosen, self.models):
                    self.systems[model.name] = System(model.name, model.label, info, model)
            elif self._is_compared(info):
                self.systems[name] = System(name, info.label, info, self.models[0] if info.routed else None)

    def _is_chosen(self, model: HardenedModel) -> bool:
        names = self.comparison.defenses
        all_models = MODEL_DEFENSE in names and all(other.name != MODEL_DEFENSE for other in self.models)
        return not names or model.name in names or all_models

    def _is_compared(self, info: DefenseInfo) -> bool:
        """Whether a defense is a row: it is named, or all are compared and the packages that it needs are installed."""
        names = self.comparison.defenses
        if names and info.name not in names:
            return False
        try:
            if info.check is not None:
                info.check()
        except MoguError as error:
            if names:
                raise
            logger.info("%s is left out: %s (%s)", info.name, error.found, error.action)
            return False
        return True

    def __getitem__(self, name: str) -> System:
        return self.systems[name]

    def names(self) -> list[str]:
        """The names of all rows."""
        return list(self.systems)

    def model_names(self) -> list[str]:
        """The names of the rows that are hardened models; the others are held against the first."""
        return [system.name for system in self.systems.values() if system.defense.name == MODEL_DEFENSE]

    def variants(self) -> list[Variant]:
        """Every row as it is, then the first model with its dial turned."""
        turned = [Variant(name, shift) for name in self.model_names()[:1] for shift in dict.fromkeys(self.comparison.shifts) if shift]
        return [*map(Variant, self.systems), *turned]

    def seed_of(self, variant: Variant, seed: int) -> int:
        """The seed under which a variant is measured for a given one: the first where the seed could change nothing."""
        return 0 if self.systems[variant.system].is_fixed else seed


def _hardened_models(comparison: Comparison) -> list[HardenedModel]:
    """The models by name. One model alone is called as its defense is, several as their folders or recipes are."""
    models: list[HardenedModel] = []
    for path in comparison.models:
        if path in MODEL_SOURCES:
            models += MODEL_SOURCES[path](comparison)
            continue
        kind, own_name = (RecipeModel, recipe_row(path)) if names_recipe(path) else (SavedModel, folder_name(path))
        alone = len(comparison.models) == 1
        name, label = (MODEL_DEFENSE, defense_info(MODEL_DEFENSE).label) if alone else (own_name, own_name)
        models.append(kind(path, comparison, name=name, label=label))
    baselines = [name for name in defense_names() if name != MODEL_DEFENSE]
    counts = Counter([*baselines, *(model.name for model in models)])
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise ConfigError(
            f"Two rows of the comparison are called {repeated[0]}",
            expected="saved models in folders of different names, none of them a defense's",
            action="rename a folder, or name each model once",
        )
    return models
