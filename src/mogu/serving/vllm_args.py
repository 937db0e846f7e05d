"""The arguments of `vllm serve` for saved models.

Knows saved models and vLLM's options; starts nothing and does not import vLLM. A saved model may come from anyone, so nothing
in it may become an option on this command line.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from mogu.errors import ConfigError, ModelFileError
from mogu.hub import at_revision, fetch_model_folder, resolve_source
from mogu.modeling.base_model import base_name
from mogu.modeling.checkpoint import CONFIG_FILE, TEMPLATE_FILE
from mogu.modeling.config import MoguConfig, check_model_name
from mogu.serving.packed_adapter import TAPS, PackedAdapter, check_servable, read_packed_adapter

logger = logging.getLogger(__name__)

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM accepts for --max-lora-rank
_LORA_MODULES = "--lora-modules"
_ADDITIONAL = "--additional-config"


def named_folders(sources: Sequence[str]) -> dict[str, Path]:
    """Find saved models and name each after its folder or hub repository; they are served under these names.

    Raises:
        MoguError: a model cannot be found, two models have the same name, or a name does not fit into vLLM's ``--lora-modules``.
    """
    folders: dict[str, Path] = {}
    for source in sources:
        folder = fetch_model_folder(source, marker=CONFIG_FILE).resolve()
        name = Path(source).resolve().name if Path(source).exists() else source.rpartition("/")[2].partition("@")[0]
        if name in folders:
            raise ConfigError(f"Two saved models are called {name!r}", expected="models with different names", action="rename one of them")
        folders[name] = folder
        _check_served_name(name, folder)
    return folders


def _check_served_name(name: str, folder: Path) -> None:
    check_model_name(name, "The name of a saved model")
    # vLLM splits `name=path` at the first "=" and parses values with a comma as JSON.
    if "=" in name or "," in f"{name}{folder}":
        raise ConfigError(
            f"The saved model {name!r} in {str(folder)!r} has a name or path that does not fit into vLLM's option {_LORA_MODULES}",
            expected="a name without '=' and ',' and a path without ','",
            action="rename the folder",
        )


def serve_arguments(models: Mapping[str, Path], *, base_model: str | None, host: str, options: Sequence[str]) -> list[str]:
    """Build the arguments of ``vllm serve``.

    Args:
        models: folders of saved models with the same base model, by the names that they are served under.
        base_model: folder or hub id of the base model; ``None`` uses the one named in the saved models.
        host: address to listen on.
        options: vLLM's own options. They are passed on and take precedence; LoRA modules among them are served, too.

    Raises:
        MoguError: a folder cannot be used, or the models have different base models or prompts.
    """
    adapters = [read_packed_adapter(folder) for folder in models.values()]
    configs = [adapter.config for adapter in adapters]
    base, revision = (
        at_revision(resolve_source(check_model_name(base_model, "--base-model")), None)
        if base_model is not None
        else at_revision(_common_base(models, configs), configs[0].base_revision)
    )
    other_modules, options = _split_lora_modules(options)
    modules = [f"{name}={folder}" for name, folder in models.items()]
    rank = max(adapter.rank for adapter in adapters)
    given = {option.partition("=")[0] for option in options}
    arguments = [base, "--host", host, "--enable-lora", _LORA_MODULES, *modules, *other_modules]
    if "--revision" not in given and revision:
        arguments += ["--revision", revision]  # of the tokenizer as well, unless --tokenizer-revision says otherwise
    if "--max-lora-rank" not in given:
        arguments += ["--max-lora-rank", str(_slot_rank(rank))]
    if "--max-loras" not in given:
        arguments += ["--max-loras", str(sum(adapter.slots for adapter in adapters) + len(other_modules))]
    if "--lora-target-modules" not in given and not other_modules:
        # Only these layers get LoRA slots, since no adapter needs the others.
        arguments += ["--lora-target-modules", *_target_modules(adapters)]
    arguments += _chat_template(models, configs, given)
    arguments += _additional_config(adapters, given)
    return arguments + options


def _additional_config(adapters: Sequence[PackedAdapter], given: set[str]) -> list[str]:
    """Build ``--additional-config``, by which workers learn what the gates read before the model is compiled."""
    taps = sorted({tap for adapter in adapters if adapter.gate is not None for tap in adapter.gate.taps})
    if not taps:
        return []
    if _ADDITIONAL in given:
        raise ConfigError(
            f"{_ADDITIONAL} is given, by which a gated model tells vLLM's workers what it reads",
            expected="no such option beside a gated model",
            action="leave it out",
        )
    return [_ADDITIONAL, json.dumps({TAPS: taps})]


def _chat_template(models: Mapping[str, Path], configs: Sequence[MoguConfig], given: set[str]) -> list[str]:
    """Build ``--chat-template`` for the template that the models were trained with, which contains their system prompt."""
    trained = {config.chat_template: folder / TEMPLATE_FILE for config, folder in zip(configs, models.values(), strict=True)}
    trained.pop(None, None)  # models in format 1 or 2 hold no template
    if "--chat-template" in given:
        for file in trained.values():
            logger.warning("--chat-template replaces %s, which the model was trained with: prompts may differ.", file)
        return []
    if len(trained) > 1:
        raise ConfigError(
            f"The saved models were trained with different chat templates or system prompts: {', '.join(map(str, trained.values()))}",
            expected="models with the same prompt, since vLLM has one chat template for all of them",
            action="serve each prompt with its own server, or name one template with --chat-template FILE",
        )
    return [f"--chat-template={file}" for file in trained.values()]


def _target_modules(adapters: Sequence[PackedAdapter]) -> list[str]:
    names = sorted({name for adapter in adapters for name in adapter.module_names})
    for name in names:
        if not name.isidentifier():
            raise ModelFileError(
                f"The saved model adapts a module that is called {name!r:.200}",
                expected="module names such as o_proj",
                action="save the model again; do not use models from people you do not trust",
            )
    return names


def _common_base(models: Mapping[str, Path], configs: Sequence[MoguConfig]) -> str:
    """What vLLM is to load: a folder of mogu's cache for a base that comes from a GGUF file, since vLLM knows no names of ours."""
    bases = {(config.base_model, config.base_revision) for config in configs}
    if len(bases) > 1:
        raise ConfigError(
            f"The saved models have different base models: {', '.join(sorted(str(base) for base, _ in bases))}",
            expected="models with the same base model, which is in memory once",
            action="serve each base model with its own server, or name one with --base-model",
        )
    return resolve_source(base_name(next(iter(models.values())), configs[0], None))


def _split_lora_modules(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the values of ``--lora-modules``, which vLLM accepts only once, from the other options."""
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


def named_adapters(options: Sequence[str]) -> dict[str, str]:
    """The adapters that vLLM's own options name, by name, in either of its forms: ``name=path``, or a JSON object.

    Raises:
        ConfigError: one of them is of neither form, or not to be served by itself.
    """
    adapters = {}
    for value in _split_lora_modules(options)[0]:
        name, separator, path = value.partition("=")
        if value.startswith("{"):
            try:
                found = json.loads(value)
            except ValueError:
                found = None
            name, separator, path = (
                (str(found.get(key, "")) for key in ("name", "path", "path")) if isinstance(found, dict) else ("", "", "")
            )
        if not separator or not name or "," in name:
            raise ConfigError(
                f"{_LORA_MODULES} is given {value!r:.80}",
                expected="NAME=PATH, or a JSON object with name and path; the name has no comma",
                action="correct it",
            )
        check_servable(path)
        adapters[name] = path
    return adapters


def _slot_rank(rank: int) -> int:
    for slot_rank in _RANKS:
        if slot_rank >= rank:
            return slot_rank
    raise ConfigError(
        f"The saved model needs a LoRA rank of {rank}",
        expected=f"a rank (2r + 2 of a routed model) of at most {_RANKS[-1]}",
        action="train responders of a smaller rank",
    )
