"""The `vllm serve` command line that serves saved models.

Knows saved models and vLLM's options; starts nothing and imports no vLLM. A saved model may come from anyone: nothing that it
says may stand on this command line as an option.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from mogu.errors import ConfigError, ModelFileError
from mogu.hub import fetch_model_folder
from mogu.modeling.checkpoint import CONFIG_FILE, TEMPLATE_FILE
from mogu.modeling.config import MoguConfig, check_model_name
from mogu.serving.packed_adapter import ServedAdapter, read_served_adapter

logger = logging.getLogger(__name__)

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes for --max-lora-rank
_LORA_MODULES = "--lora-modules"


def named_folders(sources: Sequence[str]) -> dict[str, Path]:
    """Saved models by the names that they are served under: those of their folders, or of their repositories on the hub.

    Raises:
        MoguError: one cannot be found, two share a name, or a name cannot stand in vLLM's ``--lora-modules``.
    """
    found: dict[str, Path] = {}
    for source in sources:
        folder = fetch_model_folder(source, marker=CONFIG_FILE).resolve()
        name = Path(source).resolve().name if Path(source).exists() else source.rpartition("/")[2]
        if name in found:
            raise ConfigError(f"Two saved models are called {name!r}", expected="models of different names", action="rename one of them")
        found[name] = folder
        _check_served_name(name, folder)
    return found


def _check_served_name(name: str, folder: Path) -> None:
    check_model_name(name, "The name of a saved model")
    # vLLM takes `name=path` apart at the first "=", and reads what has a comma as JSON.
    if "=" in name or "," in f"{name}{folder}":
        raise ConfigError(
            f"The saved model {name!r} in {str(folder)!r} has a name or a path that vLLM's option {_LORA_MODULES} cannot hold",
            expected="a name without '=' and ',', in a path without ','",
            action="rename the folder",
        )


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
    adapters = [read_served_adapter(folder) for folder in models.values()]
    configs = [adapter.config for adapter in adapters]
    base = check_model_name(base_model, "--base-model") if base_model is not None else _common_base(configs)
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
        arguments += ["--lora-target-modules", *_target_modules(adapters)]
    arguments += _chat_template(models, configs, given)
    return arguments + options


def _chat_template(models: Mapping[str, Path], configs: Sequence[MoguConfig], given: set[str]) -> list[str]:
    """``--chat-template`` with the one that the models were trained with, which writes their system prompt as well."""
    trained = {config.chat_template: folder / TEMPLATE_FILE for config, folder in zip(configs, models.values(), strict=True)}
    trained.pop(None, None)  # models of formats 1 and 2 do not say
    if "--chat-template" in given:
        for file in trained.values():
            logger.warning("--chat-template is served instead of %s, which the model was trained with: prompts may differ.", file)
        return []
    if len(trained) > 1:
        raise ConfigError(
            f"The saved models were trained with different chat templates or system prompts: {', '.join(map(str, trained.values()))}",
            expected="models of one prompt: vLLM has one chat template for all of them",
            action="serve each prompt by a server of its own, or name one template with --chat-template FILE",
        )
    return [f"--chat-template={file}" for file in trained.values()]


def _target_modules(adapters: Sequence[ServedAdapter]) -> list[str]:
    names = sorted({name for one in adapters for name in one.module_names})
    for name in names:
        if not name.isidentifier():
            raise ModelFileError(
                f"The saved model adapts a module that is called {name!r:.200}",
                expected="names of modules, such as o_proj",
                action="save the model again; do not use a saved model whose maker you do not trust",
            )
    return names


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
