"""A saved MoGU model: everything in its folder, read with checks and written whole.

Knows files and tensors; knows nothing of live models, nor of how the base model is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mogu.errors import ModelFileError
from mogu.files.atomic import atomic_file
from mogu.files.text_files import parse_json
from mogu.hub.saved_models import CARD_FILE
from mogu.modeling.adapter_files import (
    Adapter,
    read_adapter,
    read_gate,
    read_routers,
    read_tensors,
    read_text,
    write_adapter,
    write_gate,
    write_routers,
    write_tensors,
)
from mogu.modeling.config import MoguConfig, Responder
from mogu.modeling.gated.gate import Gate, StreamHead
from mogu.modeling.model_card import plain_card
from mogu.modeling.saved_files import check_files, digests

CONFIG_FILE = "mogu_config.json"
TEMPLATE_FILE = "chat_template.jinja"
ROUTER_FILE = "router.safetensors"
IDENTITY_FILE = "base_identity.safetensors"
BACKBONE = "backbone"

_OLD_REPORT = "training_report.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a saved model consists of. The base model is referred to, not part of it.

    Args:
        config: settings, system prompt and chat template.
        responders: those that the config says the model has.
        routers: folded, by decoder layer: ``vectors [2, d_in]`` and ``biases [2]``, unwill first; empty in a gated model.
        backbone: the backbone's LoRA; ``None`` in MoGU V1.
        gate: of a gated model.
        stream: of a gated model that listens to its answers.
        base_weights: a few numbers of each of the base model's weights, by which it is known again, see
            :mod:`mogu.modeling.base_identity`; empty in models of formats 1 and 2.
        card: the model card; ``None`` writes a plain one.
    """

    config: MoguConfig
    responders: Mapping[Responder, Adapter]
    routers: Mapping[int, tuple[Tensor, Tensor]]
    backbone: Adapter | None = None
    gate: Gate | None = None
    stream: StreamHead | None = None
    base_weights: Mapping[str, Tensor] | None = None
    card: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Read a folder that :meth:`write` wrote, in this format or an earlier one.

        Raises:
            ModelFileError: something is missing or broken, is not as it was saved, or does not belong together.
            ConfigError: the config is broken.
        """
        config = read_config(folder)
        responders = {name: read_adapter(folder / name) for name in config.responders}
        gate, stream = read_gate(folder / ROUTER_FILE) if config.gate is not None else (None, None)
        checkpoint = cls(
            config,
            responders,
            read_routers(folder / ROUTER_FILE) if gate is None else {},
            backbone=read_adapter(folder / BACKBONE) if config.backbone is not None else None,
            gate=gate,
            stream=stream,
            base_weights=read_tensors(folder / IDENTITY_FILE) if (folder / IDENTITY_FILE).is_file() else None,
            card=read_card(folder),
        )
        check_files(folder, config)
        return checkpoint

    def write(self, folder: Path) -> None:
        """Write everything into a folder that is there."""
        for name, adapter in self.responders.items():
            write_adapter(folder / name, adapter, base_model=self.config.base_model)
        if self.backbone is not None:
            write_adapter(folder / BACKBONE, self.backbone, base_model=self.config.base_model)
        if self.gate is None:
            write_routers(folder / ROUTER_FILE, self.routers)
        else:
            write_gate(folder / ROUTER_FILE, self.gate, self.stream)
        if self.base_weights:
            write_tensors(folder / IDENTITY_FILE, dict(self.base_weights))
        (folder / CARD_FILE).write_text(self.card or plain_card(self.config), encoding="utf-8")
        write_config(folder, self.config)


def read_config(folder: Path) -> MoguConfig:
    """Read the config of a saved model, with its chat template and system prompt.

    Models of formats 1 and 2 have their system prompt in the report of their training, where that is still beside them.

    Raises:
        ModelFileError: the folder or its config is missing, or the template is not the one that was saved.
        ConfigError: the config is broken.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise ModelFileError(
            f"{folder} holds no {CONFIG_FILE}",
            expected="a folder that save_pretrained or `mogu train` wrote",
            action="check the path; a published MoGU release is brought in with `mogu import-reference`",
        )
    config = MoguConfig.from_json(read_text(file), str(file))
    if config.format_version < 3:
        # Their fingerprint is of a template that is not in the folder: kept, a copy saved in format 3 would ask for that file.
        return config.model_copy(update={"system_prompt": _reported_system_prompt(folder), "chat_template_sha256": None})
    template = folder / TEMPLATE_FILE
    if config.chat_template_sha256 is None:
        return config
    if not template.is_file():
        raise ModelFileError(
            f"{folder} holds no {TEMPLATE_FILE}",
            expected="the chat template that the model was trained with",
            action="copy the folder again",
        )
    return config.with_chat_template(read_text(template), source=str(template))


def write_config(folder: Path, config: MoguConfig) -> None:
    """Write the config of a saved model, with its chat template, into the folder of its other files, whose digests it lists."""
    if config.chat_template is not None:
        (folder / TEMPLATE_FILE).write_text(config.chat_template, encoding="utf-8", newline="")
    (folder / CONFIG_FILE).write_text(config.to_json(digests(folder)), encoding="utf-8")


def rewrite_settings(folder: Path, config: MoguConfig, card: str) -> None:
    """Give a saved model another config and card: both are written beside the old ones, then take their places.

    Raises:
        MoguError: they cannot be written; config and card are then as they were.
    """
    with atomic_file(folder / CONFIG_FILE) as new_config, atomic_file(folder / CARD_FILE) as new_card:
        new_config.write_text(config.to_json(config.files or digests(folder)), encoding="utf-8")
        new_card.write_text(card, encoding="utf-8")


def accept_files(folder: Path) -> None:
    """List the files of a saved model anew, as they are now.

    Raises:
        MoguError: there is no saved model, or its config cannot be written.
    """
    config = read_config(folder)
    with atomic_file(folder / CONFIG_FILE) as scratch:
        scratch.write_text(config.to_json(digests(folder)), encoding="utf-8")


def read_card(folder: Path) -> str | None:
    """Read the model card of a saved model; ``None`` where there is none.

    Raises:
        ModelFileError: it is not text.
    """
    file = folder / CARD_FILE
    return read_text(file) if file.is_file() else None


def _reported_system_prompt(folder: Path) -> str | None:
    try:
        prompt = parse_json(read_text(folder / _OLD_REPORT))["recipe"]["model"]["system_prompt"]
    except (ModelFileError, ValueError, KeyError, TypeError):
        return None
    return prompt if isinstance(prompt, str) else None
