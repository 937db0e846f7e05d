"""Defenses from a file of the user's. Knows how to run a Python file; knows nothing of what its defenses do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from mogu.defenses import registry
from mogu.errors import ConfigError


def load_plugin(file: Path) -> list[str]:
    """Run a Python file that registers defenses with :func:`~mogu.defenses.registry.defense`; returns their names.

    The file runs with all rights of this process: a plugin is code, not data.

    Raises:
        ConfigError: the file does not exist, fails, or registers no defense.
    """
    expected = "a Python file that registers defenses with @mogu.defenses.defense"
    if not file.is_file():
        raise ConfigError(f"The plugin {file} does not exist", expected=expected, action="check the path")
    before = dict(registry._REGISTRY)
    module_name = f"mogu_plugin {file.resolve()}"  # files with the same base name are different modules
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"The plugin {file} is not a Python file", expected=expected, action="name a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up here
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file raises
        registry._REGISTRY.clear()
        registry._REGISTRY.update(before)
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"The plugin {file} fails with {type(error).__name__}: {error}", expected=expected, action="correct the file"
        ) from error
    names = [name for name in registry._REGISTRY if registry._REGISTRY[name] is not before.get(name)]
    if not names:
        raise ConfigError(f"The plugin {file} registers no defense", expected=expected, action="decorate its function with @defense(name)")
    return names
