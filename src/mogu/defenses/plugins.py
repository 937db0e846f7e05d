"""Defenses from a file of the user's. Knows how to run a Python file; knows nothing of what its defenses do."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mogu.defenses import registry
from mogu.errors import ConfigError

DEFENSES_EXPECTED = "a Python file that registers defenses with @mogu.defenses.defense"


def load_plugin(file: Path, *, others: Sequence[dict[str, Any]] = (), expected: str = DEFENSES_EXPECTED) -> list[str]:
    """Run a Python file that registers defenses with :func:`~mogu.defenses.registry.defense`; returns their names.

    The file runs with all rights of this process: a plugin is code, not data.

    Args:
        file: the file.
        others: registries of other kinds in which the file may register something as well, or instead.
        expected: what the file should be, for errors.

    Raises:
        ConfigError: the file does not exist, fails, or registers nothing.
    """
    if not file.is_file():
        raise ConfigError(f"The plugin {file} does not exist", expected=expected, action="check the path")
    registries: list[dict[str, Any]] = [registry._REGISTRY, *others]
    before = [dict(entries) for entries in registries]
    module_name = f"mogu_plugin {file.resolve()}"  # files with the same base name are different modules
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"The plugin {file} is not a Python file", expected=expected, action="name a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up here
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file raises
        for entries, kept in zip(registries, before, strict=True):
            entries.clear()
            entries.update(kept)
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"The plugin {file} fails with {type(error).__name__}: {error}", expected=expected, action="correct the file"
        ) from error
    names = [name for entries, kept in zip(registries, before, strict=True) for name in entries if entries[name] is not kept.get(name)]
    if not names:
        raise ConfigError(f"The plugin {file} registers nothing", expected=expected, action="decorate a function of it")
    return names
