"""Find the base model to analyze: the model that was named or, if that is a saved MoGU model, its base.

Knows where models come from, and their context length; knows nothing of the analysis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.data import Record
from mogu.errors import ConfigError, DataError
from mogu.hub import fetch_model_folder, load_base
from mogu.modeling.base_model import base_name, load_base_of
from mogu.modeling.checkpoint import CONFIG_FILE, read_config
from mogu.modeling.config import MoguConfig
from mogu.modeling.loading import load_prepared_tokenizer


@dataclass(frozen=True)
class BaseSource:
    """Where to load a base model from.

    Args:
        name: its folder or hub id.
        saved: folder and config of the saved MoGU model whose base it is; ``None`` if the base itself was named.
        moved: whether the user said where the base is now.
    """

    name: str
    saved: tuple[Path, MoguConfig] | None
    moved: bool

    @property
    def output_projection(self) -> str | None:
        """Path of the attention output projection according to the saved MoGU model, if there is one."""
        return self.saved[1].output_projection if self.saved is not None else None

    @property
    def system_prompt(self) -> str | None:
        """The system prompt that the saved MoGU model was trained with, if there is one."""
        return self.saved[1].system_prompt if self.saved is not None else None

    def load_tokenizer(self, *, chat_template: Path | None, trust_remote_code: bool) -> PreTrainedTokenizerBase:
        """Load the tokenizer, with the chat template that the saved MoGU model was trained with, if there is one.

        Raises:
            MoguError: it cannot be loaded, or is not the one of training.
        """
        config = self.saved[1] if self.saved is not None else MoguConfig()
        revision = config.base_revision if not self.moved else None
        return load_prepared_tokenizer(
            config, self.name, revision=revision, chat_template=chat_template, trust_remote_code=trust_remote_code
        )

    def load(self, *, dtype: torch.dtype | None, trust_remote_code: bool) -> PreTrainedModel:
        """Load the model in evaluation mode, on the GPU if there is one.

        Raises:
            ModelFileError: it cannot be loaded.
        """
        options: dict[str, Any] = {
            "dtype": dtype or "auto",
            "device_map": {"": "cuda" if torch.cuda.is_available() else "cpu"},
            "trust_remote_code": trust_remote_code,
        }
        if self.saved is None:
            model = load_base(self.name, **options)
        else:
            model = load_base_of(*self.saved, self.name if self.moved else None, **options)
        model.train(False)
        return model


def find_base(model: str, base_model: str | None) -> BaseSource:
    """Resolve a name to a base model.

    Args:
        model: folder or hub id of a base model or of a saved MoGU model.
        base_model: where the base of a saved MoGU model is now.

    Raises:
        ConfigError: ``base_model`` is given for a model that is itself a base.
        ModelFileError: there is no such model, or it does not name its base.
    """
    folder = fetch_model_folder(model, marker=CONFIG_FILE)
    if (folder / CONFIG_FILE).is_file():
        config = read_config(folder)
        return BaseSource(base_name(folder, config, base_model), (folder, config), base_model is not None)
    if base_model is not None:
        raise ConfigError(
            f"A base model was given for {model}, which is no saved MoGU model",
            expected="one model",
            action="leave --base-model out",
        )
    return BaseSource(model, None, False)


def check_prompt_lengths(records: Sequence[Record], prompts: Sequence[list[int]], model: PreTrainedModel) -> None:
    """Refuse prompts longer than the model's context, before any forward pass.

    Args:
        records: the records of the prompts.
        prompts: token ids of each record's prompt.
        model: the model.

    Raises:
        DataError: a prompt does not fit; the message names the record.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for record, prompt in zip(records, prompts, strict=True):
        if context is not None and len(prompt) > context:
            raise DataError(
                f"The prompt of record {record.id!r} has {len(prompt)} tokens",
                expected=f"at most {context}, the context of the model",
                action="shorten or drop the record",
            )
