"""One way to load a model for every command, for Inspect and for Python: the model, its tokenizer and the prompt it was trained with.

Knows saved models and base models; knows nothing of what is done with them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.errors import ConfigError
from mogu.hub import fetch_model_folder, load_base, load_tokenizer, read_template
from mogu.modeling.base_model import base_name, load_base_of
from mogu.modeling.checkpoint import CONFIG_FILE, Checkpoint
from mogu.modeling.config import MoguConfig
from mogu.modeling.model import MoguModel
from mogu.modeling.prompt_contract import prepare_tokenizer, with_system_prompt
from mogu.recipes.settings import Quantization

logger = logging.getLogger(__name__)

QUANTIZATIONS = ("auto", "none", *get_args(Quantization))
"""How to load a base model: as the saved model on it was trained, which for a base model alone is as it was saved, or in so many bits."""


@dataclass(frozen=True)
class LoadedModel:
    """A model, ready to be asked.

    Args:
        model: a hardened model, or a base model alone; in evaluation mode.
        tokenizer: renders the prompts of training, system prompt included.
    """

    model: MoguModel | PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def mogu(self) -> MoguModel | None:
        """The hardened model; ``None`` where a base model was named."""
        return self.model if isinstance(self.model, MoguModel) else None


def load_model(
    name: str | Path,
    *,
    base_model: str | None = None,
    chat_template: Path | None = None,
    system_prompt: str | None = None,
    strict_base: bool = False,
    trust_remote_code: bool = False,
    hardened: bool = False,
    quantization: str = "auto",
    **model_kwargs: Any,
) -> LoadedModel:
    """Load a saved MoGU model with its base, or a base model alone, with the tokenizer and prompt that belong to it.

    Args:
        name: a folder, a hub id or a name that ``mogu models ls`` lists.
        base_model: where the base of a saved MoGU model is now.
        chat_template: a Jinja file to use instead of the trained template, or of a base model's own.
        system_prompt: to use instead of the trained one, for conversations that have none.
        strict_base: refuse a base model with other weights than in training, which otherwise gets a warning.
        trust_remote_code: whether the base model's own code may run.
        hardened: refuse a base model alone, before any of it is loaded.
        quantization: the bits to load the base model's linear layers in; by default those of training.
        model_kwargs: for ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        MoguError: the model, its base or its tokenizer cannot be loaded, or the tokenizer is another one than in training.
    """
    prompt: dict[str, Any] = {"chat_template": chat_template, "system_prompt": system_prompt, "trust_remote_code": trust_remote_code}
    folder = fetch_model_folder(str(name), marker=CONFIG_FILE)
    if hardened or (folder / CONFIG_FILE).is_file():
        checkpoint = Checkpoint.read(folder)
        config = checkpoint.config
        revision = config.base_revision if base_model is None else None
        tokenizer = load_prepared_tokenizer(config, base_name(folder, config, base_model), revision=revision, **prompt)
        chosen = chosen_quantization(quantization, config.base_quantization)
        base = load_base_of(folder, config, base_model, quantization=chosen, trust_remote_code=trust_remote_code, **model_kwargs)
        model = MoguModel.from_checkpoint(checkpoint, base, strict_base=strict_base)
        model.use_tokenizer(tokenizer)
        return LoadedModel(model.eval(), tokenizer)
    if base_model is not None:
        raise ConfigError(
            f"A base model was named for {name}, which is no saved MoGU model", expected="one model", action="leave --base-model out"
        )
    chosen = chosen_quantization(quantization, None)
    base = load_base(str(name), quantization=chosen, trust_remote_code=trust_remote_code, **model_kwargs)
    base.train(False)
    return LoadedModel(base, load_prepared_tokenizer(MoguConfig(), str(name), **prompt))


def chosen_quantization(choice: str, trained_on: Quantization | None) -> Quantization | None:
    """The bits that a base model is loaded in.

    Args:
        choice: one of :data:`QUANTIZATIONS`.
        trained_on: what the saved model was trained on.

    Raises:
        ConfigError: there is no such choice.
    """
    if choice not in QUANTIZATIONS:
        raise ConfigError(f"The quantization is {choice!r}", expected=f"one of {', '.join(QUANTIZATIONS)}", action="choose one of them")
    return trained_on if choice == "auto" else None if choice == "none" else cast(Quantization, choice)


def load_prepared_tokenizer(
    config: MoguConfig,
    source: str,
    *,
    revision: str | None = None,
    chat_template: Path | None = None,
    system_prompt: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedTokenizerBase:
    """The tokenizer of a base model, with the prompt that a model on it was trained with.

    Args:
        config: of that model; an empty one for the base model's own prompt.
        source: folder or hub id of the base model.
        revision: commit on the hub.
        chat_template: a Jinja file to use instead.
        system_prompt: to use instead.
        trust_remote_code: whether the tokenizer's own code may run.

    Raises:
        ModelFileError: there is no tokenizer, it is another one than in training, or the template file cannot be read.
    """
    tokenizer = load_tokenizer(source, revision=revision, trust_remote_code=trust_remote_code)
    template = read_template(chat_template) if chat_template is not None else None
    prepared = prepare_tokenizer(config, tokenizer, chat_template=template, source=str(chat_template or source))
    if system_prompt is None or prepared.chat_template is None or system_prompt == config.system_prompt:
        return prepared
    if config.system_prompt is not None or config.chat_template is not None:
        logger.warning(
            "The system prompt %r is not the one that the model was trained with (%r): its measured safety may not hold.",
            system_prompt,
            config.system_prompt,
        )
    prepared.chat_template = with_system_prompt(str(prepared.chat_template), system_prompt)
    return prepared
