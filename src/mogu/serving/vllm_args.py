"""The `vllm serve` command line that serves saved models.

Knows saved models and vLLM's options; starts nothing and imports no vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mogu.errors import ConfigError
from mogu.hub import fetch_model_folder
from mogu.modeling.adapter_files import CONFIG_FILE
from mogu.modeling.config import MoguConfig
from mogu.serving.packed_adapter import read_packed_adapter

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes for --max-lora-rank
_LORA_MODULES = "--lora-modules"


def named_folders(sources: Sequence[str]) -> dict[str, Path]:
    """Saved models by the names that they are served under: those of their folders, or of their repositories on the hub.

    Raises:
        MoguError: one cannot be found, or two share a name.
    """
    found: dict[str, Path] = {}
    for source in sources:
        folder = fetch_model_folder(source, marker=CONFIG_FILE).resolve()
        name = Path(source).resolve().name if Path(source).exists() else source.rpartition("/")[2]
        if name in found:
            raise ConfigError(f"Two saved models are called {name!r}", expected="models of different names", action="rename one of them")
        found[name] = folder
    return found


def serve_arguments(models: Mapping[str, Path], *, base_model: str | None, host: str, options: Sequence[str]) -> list[str]:
    """Arguments for ``vllm serve``.

    Args:
        models: folders of saved models of one base model, by the names that they are served under.
        base_model: where the base model is now; ``None`` takes what the saved models say.
        host: address to listen on.
        options: options of vLLM's own, passed on. What they set is left as it is; LoRA modules among them are served as well.

    Raises:
        MoguError: a folder cannot be used, or the models have different base models.
    """
    adapters = [read_packed_adapter(folder) for folder in models.values()]
    configs = [adapter.config for adapter in adapters]
    base = base_model or _common_base(configs)
    others, options = _lora_modules(options)
    modules = [f"{name}={folder}" for name, folder in models.items()]
    needed = max(adapter.rank for adapter in adapters)
    given = {option.partition("=")[0] for option in options}
    arguments = [base, "--host", host, "--enable-lora", _LORA_MODULES, *modules, *others]
    if "--revision" not in given and base_model is None and configs[0].base_revision:
        arguments += ["--revision", configs[0].base_revision]
    if "--max-lora-rank" not in given:
        arguments += ["--max-lora-rank", str(_slot_rank(needed))]
    if "--max-loras" not in given:
        arguments += ["--max-loras", str(len(modules) + len(others))]
    if "--lora-target-modules" not in given and not others:
        # Only these layers get slots: the others would look for adapters that never come.
        arguments += ["--lora-target-modules", *sorted({name for one in adapters for name in one.module_names})]
    return arguments + options


def _common_base(configs: Sequence[MoguConfig]) -> str:
    bases = {(config.base_model, config.base_revision) for config in configs}
    if len(bases) > 1:
        raise ConfigError(
            f"The saved models have different base models: {', '.join(sorted(str(base) for base, _ in bases))}",
            expected="models of one base model, which is in memory once",
            action="serve each base model by a server of its own, or name one with --base-model",
        )
    base = configs[0].base_model
    if base is None:
        raise ConfigError("The saved model does not say what its base model is", expected="--base-model", action="name it")
    return base


def _lora_modules(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """The values of ``--lora-modules`` among options, which vLLM takes once, and the other options."""
    values: list[str] = []
    rest: list[str] = []
    inside = False
    for option in options:
        if option.startswith("--"):
            inside = option == _LORA_MODULES
            if not inside:
                rest.append(option)
        else:
            (values if inside else rest).append(option)
    return values, rest


def _slot_rank(needed: int) -> int:
    for rank in _RANKS:
        if rank >= needed:
            return rank
    raise ConfigError(
        f"The saved model needs a LoRA rank of {needed}",
        expected=f"2r + 2 of at most {_RANKS[-1]}",
        action="train responders of a smaller rank",
    )
