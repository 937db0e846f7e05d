"""`mogu sweep`: a recipe carried out with each combination of some settings, under several seeds, and a table of what came of it.

Knows combinations, their cells and the table; a training itself is :func:`mogu.training.harden`.
"""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any

from mogu.errors import ConfigError
from mogu.files.atomic import check_replaceable, discard
from mogu.files.digests import file_digest
from mogu.files.json_files import fingerprint, read_kept, write_json, write_sealed
from mogu.files.outputs import one_process_at
from mogu.modeling.checkpoint import CONFIG_FILE
from mogu.training.pipeline import harden
from mogu.training.recipe import Recipe, read_recipe
from mogu.training.report import read_report
from mogu.training.sweep_table import row, write
from mogu.workers import Workers, share_out

MARKER = "mogu_sweep.json"

logger = getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """One training of a sweep.

    Args:
        settings: the combination, as ``section.key=value`` overrides of the recipe.
        seed: how far its seed is from the recipe's.
    """

    settings: tuple[str, ...]
    seed: int

    @property
    def folder(self) -> str:
        """A name for the files of the combination: what can be read, and where that leaves something out its digest."""
        text = ",".join(self.settings) or "recipe"
        name = re.sub(r"[^\w.=,+-]+", "_", text)[:100]
        return name if name == text else f"{name}-{fingerprint(text)[:8]}"

    def __str__(self) -> str:
        return ", ".join([*self.settings, f"seed {self.seed}"])


@dataclass(frozen=True)
class Sweep:
    """The settings of a sweep.

    Args:
        recipe: the recipe: a TOML file, or the name of a shipped one.
        out: folder of models, cells and table.
        vary: settings with their values, ``section.key=value,value,…``; every combination is trained.
        seeds: how many seeds each of them is trained with, from the recipe's on.
        settings: ``section.key=value`` overrides of every training.
    """

    recipe: Path
    out: Path
    vary: tuple[str, ...] = ()
    seeds: int = 1
    settings: tuple[str, ...] = ()

    def combinations(self) -> list[tuple[str, ...]]:
        """Every combination of values, in the order of nested loops.

        Raises:
            ConfigError: ``vary`` cannot be read.
        """
        axes = [varied(text) for text in self.vary]
        keys = [axis[0].partition("=")[0] for axis in axes]
        if len(set(keys)) < len(keys):
            raise ConfigError("--vary names a setting twice", expected="all values of a setting in one --vary", action="join them")
        return list(itertools.product(*axes))

    def recipe_of(self, point: Point) -> Recipe:
        """The recipe of a training, whose model is saved to ``models/COMBINATION/seed-N``.

        Raises:
            ConfigError: it cannot be read, or a setting is unknown or out of range.
        """
        recipe = read_recipe(self.recipe, [*self.settings, *point.settings, "run.output=replaced"])
        output = self.out / "models" / point.folder / f"seed-{point.seed}"
        seeded = recipe.run.model_copy(update={"output": output, "seed": recipe.run.seed + point.seed})
        # By all settings: a training that was stopped goes on, and one with other settings is another one.
        work = self.out / "training" / made_with(recipe.model_copy(update={"run": seeded}))[:16]
        return recipe.model_copy(update={"run": seeded.model_copy(update={"work": work})})

    def cell(self, point: Point) -> dict[str, Any] | None:
        """What was measured of a training, or ``None`` if it is still to be made."""
        kept, recipe = read_kept(self._file(point)), self.recipe_of(point)
        is_made = kept is not None and kept["fingerprint"] == made_with(recipe) and (recipe.run.output / CONFIG_FILE).is_file()
        return kept if is_made else None

    def make(self, point: Point) -> None:
        """Train a point, and keep what was measured of it on the dev records."""
        recipe = self.recipe_of(point)
        logger.info("Training with %s", point)
        harden(recipe, resume=True)
        report = read_report(recipe.run.output)
        assert report is not None
        measured = {name: report[name] for name in ("base_on_dev", "chosen", "seconds")}
        write_sealed(
            self._file(point), {"fingerprint": made_with(recipe), "settings": list(point.settings), "seed": point.seed, **measured}
        )
        discard(recipe.run.work_folder)

    def _file(self, point: Point) -> Path:
        return self.out / "cells" / point.folder / f"seed-{point.seed}.json"


def varied(text: str) -> tuple[str, ...]:
    """Read ``section.key=value,value,…`` as one ``section.key=value`` for each value; values are TOML's, or else plain words.

    Raises:
        ConfigError: it is not of that form, or a value stands there twice.
    """
    key, separator, values = text.partition("=")
    try:
        read = tomllib.loads(f"values = [{values}]")["values"]
    except tomllib.TOMLDecodeError:
        read = [word.strip() for word in values.split(",")]
    settings = tuple(f"{key.strip()}={json.dumps(value, default=str)}" for value in read if value != "")
    if not separator or not settings or len(set(settings)) < len(settings):
        raise ConfigError(
            f"--vary got {text!r}",
            expected="section.key=value,value, each value once",
            action="write, for instance, --vary unwill.epochs=3,5",
        )
    return settings


def made_with(recipe: Recipe) -> str:
    """SHA-256 of what decides what a training comes to: its settings and its files of records."""
    files = [path for path in (recipe.data.train, recipe.data.dev) if path is not None and Path(path).is_file()]
    settings = recipe.model_dump(mode="json", exclude={"run": {"output", "work"}})
    return fingerprint(settings, [file_digest(Path(file)) for file in files])


def sweep(settings: Sweep, workers: Workers | None = None) -> dict[str, Any]:
    """Train what is missing and write the table; returns what ``sweep.json`` holds.

    A sweep that was stopped goes on where it stopped, and one with more values or seeds takes over what is there.

    Args:
        settings: the settings.
        workers: who trains; by default this process.

    Raises:
        MoguError: settings or data cannot be used, the folder exists and is not ours, or another process is at it.
    """
    if settings.seeds < 1:
        raise ConfigError(f"--seeds is {settings.seeds}", expected="a whole number from 1", action="correct it")
    points = [Point(combination, seed) for seed in range(settings.seeds) for combination in settings.combinations()]
    for point in points:
        settings.recipe_of(point)  # what is wrong with any of them comes to light before the first is trained
    check_replaceable(settings.out, marker=MARKER)
    with one_process_at(settings.out):
        write_json(settings.out / MARKER, {"what": "folder of `mogu sweep`: models, cells and table"})
        missing = [point for point in points if settings.cell(point) is None]
        if workers is not None:
            share_out(workers, [missing], partial(_maker, settings), shared=settings.out / MARKER)
        else:
            for point in missing:
                settings.make(point)
        discard(settings.out / "training")
        rows = [row(combination, _cells(settings, combination)) for combination in settings.combinations()]
        made = {"recipe": str(settings.recipe), "vary": list(settings.vary), "settings": list(settings.settings), "seeds": settings.seeds}
        results = {"made": made, "points": rows}
        write(results, settings.out)
    return results


def _maker(settings: Sweep) -> Callable[[Point], None]:
    return settings.make


def _cells(settings: Sweep, combination: tuple[str, ...]) -> list[dict[str, Any]]:
    cells = [settings.cell(Point(combination, seed)) for seed in range(settings.seeds)]
    return [cell for cell in cells if cell is not None]
