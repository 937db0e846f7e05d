"""List, find and copy what ships with the package: recipes, chat templates, the shapes of the models they are for, and machines.

Knows files and their names; knows nothing of training, tokenizers or models, and of a recipe no more than a list shows.

A recipe's name is its path here without ``.toml``: ``vicuna-7b``, ``v1/vicuna-7b``, ``finetuning/vicuna-7b``. A template's name is that of
its model family: ``vicuna``. A machine has a config for `accelerate launch`, of its name: ``8x80gb``. Wherever a recipe or a template can
be given, an existing file is taken before anything that ships under the same name.
"""

from __future__ import annotations

import shutil
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from mogu.errors import ConfigError
from mogu.files.atomic import atomic_file

_FOLDER = Path(str(files("mogu.recipes")))  # a real folder: pip unpacks wheels, and transformers reads configs from folders
_TEMPLATES = _FOLDER / "templates"
_SHAPES = _FOLDER / "configs"
_MACHINES = _FOLDER / "accelerate"

_FORMER_TEMPLATES = Path("recipes/templates")
"""Where recipes and training reports name templates that were written before templates had names."""


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe that ships with the package.

    Args:
        name: what `mogu train` or `mogu finetune` calls it.
        command: which of the two reads it.
        method: what it does: ``"gated"``, ``"v1"``, ``"v2"``, or how it fine-tunes, such as ``"lora, data-mix"``.
        base_model: the hub id of its base model.
        template: the chat template it names; ``None`` is the tokenizer's own.
    """

    name: str
    command: str
    method: str
    base_model: str
    template: str | None

    @property
    def path(self) -> Path:
        """Its file."""
        return _FOLDER / f"{self.name}.toml"

    @property
    def shape(self) -> Path:
        """A folder with the ``config.json`` of its base model."""
        return _SHAPES / Path(self.name).name


def shipped_recipes() -> list[ShippedRecipe]:
    """Return all recipes: those of `mogu train` first, by name, then those of `mogu finetune`."""
    recipes = [_described(path) for path in _FOLDER.rglob("*.toml")]
    return sorted(recipes, key=lambda recipe: (recipe.command != "train", "/" in recipe.name, recipe.name))


def _described(path: Path) -> ShippedRecipe:
    tree = tomllib.loads(path.read_text(encoding="utf-8"))
    tunes = "tune" in tree
    return ShippedRecipe(
        name=path.relative_to(_FOLDER).with_suffix("").as_posix(),
        command="finetune" if tunes else "train",
        method=f"{tree['tune']['method']}, {tree['safety']['method']}" if tunes else tree.get("method", "gated"),
        base_model=tree["model"]["base"],
        template=tree["model"].get("chat_template"),
    )


def shipped_recipe(name: str) -> ShippedRecipe:
    """Return the recipe of a name.

    Raises:
        ConfigError: there is none.
    """
    recipe = next((recipe for recipe in shipped_recipes() if recipe.name == name), None)
    if recipe is None:
        raise ConfigError(f"There is no shipped recipe {name!r}", expected="a name that `mogu recipes ls` lists", action="correct the name")
    return recipe


def shipped_templates() -> list[str]:
    """Return the names of all chat templates."""
    return sorted(path.stem for path in _TEMPLATES.glob("*.jinja"))


def shipped_machines() -> list[str]:
    """Return the names of all machines, each of which has a config for `accelerate launch`, whatever the recipe."""
    return sorted(path.stem for path in _MACHINES.glob("*.yaml"))


def find_recipe(path: Path) -> Path:
    """Return the file of a recipe that a user named.

    Args:
        path: a file, or the name of a shipped recipe.

    Raises:
        ConfigError: it is neither.
    """
    if _is_file(path):
        return path
    names = [recipe.name for recipe in shipped_recipes()]
    if path.as_posix() in names:
        return shipped_recipe(path.as_posix()).path
    meant = path.as_posix().removeprefix("recipes/").removesuffix(".toml")
    # A file that is missing is never replaced in silence: it may be an edited copy that lies in another folder.
    hint = f"to use the shipped recipe, write {meant} without .toml" if meant in names else "`mogu recipes ls` lists the shipped recipes"
    raise ConfigError(
        f"The recipe {path} cannot be read: there is no such file",
        expected="a TOML file, or the name of a shipped recipe",
        action=f"check the path; {hint}",
    )


def _is_file(path: Path) -> bool:
    return path.exists() and not path.is_dir()  # a pipe, such as the shell's <(…), can be read as well


def shipped_template(path: Path) -> Path | None:
    """Return the file of a shipped chat template, or ``None`` where none has that name.

    Args:
        path: its name, or ``recipes/templates/NAME.jinja`` as files written earlier name it.
    """
    name = path.stem if path.parent == _FORMER_TEMPLATES and path.suffix == ".jinja" else path.as_posix()
    return _TEMPLATES / f"{name}.jinja" if name in shipped_templates() else None


def find_template(path: Path) -> Path:
    """Return the file of a chat template that a user or a recipe named.

    Args:
        path: a Jinja file, or the name of a shipped template.

    Raises:
        ConfigError: it is neither.
    """
    if _is_file(path):
        return path
    found = shipped_template(path)
    if found is None:
        raise ConfigError(
            f"The chat template {path} cannot be read: there is no such file",
            expected=f"a Jinja file, or one of the shipped templates {', '.join(shipped_templates())}",
            action="correct the path, or name one of these",
        )
    return found


def model_shape(base_model: str) -> Path | None:
    """Return the folder with the ``config.json`` of a recipe's base model, or ``None`` for any other model.

    Args:
        base_model: a hub id.
    """
    return next((recipe.shape for recipe in shipped_recipes() if recipe.base_model == base_model), None)


def copy_shipped(name: str, target: Path | None = None) -> Path:
    """Copy a recipe, a chat template or a machine's config to be edited, and return the new file.

    Args:
        name: of a recipe, ``templates/NAME`` or ``accelerate/NAME``.
        target: a new file, or a folder to put it in; by default the current folder. A recipe of a subfolder gets a name that
            says so, ``v2-vicuna-7b.toml``, since its file would otherwise be called like another.

    Raises:
        ConfigError: there is nothing of that name, or a file where the copy would go.
        MoguError: the file system refuses.
    """
    folder, _, stem = name.rpartition("/")
    if folder == "templates" and stem in shipped_templates():
        source, file_name = _TEMPLATES / f"{stem}.jinja", f"{stem}.jinja"
    elif folder == "accelerate" and stem in shipped_machines():
        source, file_name = _MACHINES / f"{stem}.yaml", f"accelerate-{stem}.yaml"
    else:
        source, file_name = shipped_recipe(name).path, f"{name.replace('/', '-')}.toml"
    if target is None or target.is_dir():
        target = (target or Path()) / file_name
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} exists already", expected="a new file", action="name another file, or remove that one")
    with atomic_file(target) as scratch:
        shutil.copyfile(source, scratch)
    return target
