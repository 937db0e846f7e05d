"""Read settings from TOML: strict sections, overrides from the command line, and one clear error for whatever cannot be used.

Knows files and sections; does not know which sections a command has, or what they mean.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mogu.errors import ConfigError, DataError
from mogu.files.text_files import read_any
from mogu.recipes.shipped import find_recipe

_MOST_BYTES = 2**20
_MOST_DOTS = 2**24  # squared; a text of 4,096 sentences has as many


Quantization = Literal["4bit", "8bit"]
"""To how many bits a base model's linear layers are quantized by bitsandbytes when it is loaded."""


class Section(BaseModel):
    """A section of a recipe; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SectionT = TypeVar("SectionT", bound=Section)


def read_tree(path: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Read a TOML file as nested dictionaries and apply ``section.key=value`` overrides; relative paths in it are left as they are.

    Raises:
        ConfigError: the file is missing or not TOML, or an override is not of that form.
    """
    file = find_recipe(path)
    try:
        tree = _parsed(read_any(file, _MOST_BYTES))
    except DataError as error:
        raise ConfigError(f"The recipe {path} cannot be read: {error.found}", expected=error.expected, action=error.action) from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so is what Python says of an endless number
        raise ConfigError(f"The recipe {path} is not valid TOML: {error}", expected="a TOML file", action="correct that line") from error
    for setting in settings:
        override(tree, setting)
    return tree


def _parsed(text: str) -> dict[str, Any]:
    """Parse TOML, unless it has keys of very many parts: Python's parser keeps every beginning of each, which takes their square of memory.

    Raises:
        ValueError: it is not TOML, or has such keys.
        RecursionError: it is nested too deeply.
    """
    if sum(part.count(".") ** 2 for part in text.split("=")) > _MOST_DOTS:
        raise ValueError("it has keys of very many parts")
    return tomllib.loads(text)


def checked(kind: type[SectionT], tree: dict[str, Any], *, source: str, page: str) -> SectionT:
    """Make settings of a kind from nested dictionaries; errors name ``source``, and ``page`` as the place that describes the settings.

    Raises:
        ConfigError: a setting is unknown, missing or out of range.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}" for problem in error.errors()[:5])
        raise ConfigError(
            f"The recipe {source} has settings that cannot be used: {problems}",
            expected=f"the sections and keys of {page}",
            action="correct them in the file, or with --set section.key=value",
        ) from error


def override(tree: dict[str, Any], setting: str) -> None:
    """Set one ``section.key=value`` in the nested dictionaries of a recipe.

    Raises:
        ConfigError: it is not of that form.
    """
    key, separator, text = setting.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set got {setting!r}", expected="section.key=value", action="write, for instance, --set glad.epochs=3")
    try:
        value = _parsed(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    section = tree
    for part in parts[:-1]:
        inner = section.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set got {setting!r}, but {part} is not a section", expected="section.key=value", action="correct the key")
        section = inner
    section[parts[-1]] = value
