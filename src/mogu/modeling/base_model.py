"""Which base model a saved model stands on, and where it is now.

Knows saved configs and where models come from; knows nothing of routing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from mogu.errors import ConfigError, ModelFileError
from mogu.hub import load_base, locate_gguf
from mogu.modeling.config import MoguConfig
from mogu.recipes.settings import Quantization


def base_name(folder: Path, config: MoguConfig, base_model: str | Path | None) -> str:
    """Where the base model of a saved model is: where the caller says, else where it was in training.

    Raises:
        ModelFileError: nothing says it.
    """
    if base_model:
        return str(base_model)
    if not config.base_model:
        raise ModelFileError(f"{folder} names no base model", expected="its hub id or folder", action="pass base_model=...")
    return locate_gguf(config.base_model, config.base_sha256) if config.base_sha256 else config.base_model


def load_base_of(
    folder: Path,
    config: MoguConfig,
    base_model: PreTrainedModel | str | Path | None,
    *,
    quantization: Quantization | None = None,
    **model_kwargs: Any,
) -> PreTrainedModel:
    """The base model of a saved model: the one that is given, else loaded from where it is.

    Args:
        folder: of the saved model.
        config: its config.
        base_model: the base model itself, or where it is now; ``None`` takes what the config says.
        quantization: to load it in 4 or 8 bits.
        model_kwargs: for ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        ConfigError: a loaded model was given, and arguments to load one.
        ModelFileError: nothing says which model it is, or it cannot be loaded.
    """
    if isinstance(base_model, PreTrainedModel):
        given = [*model_kwargs, *(["quantization"] if quantization is not None else [])]
        if given:
            raise ConfigError(
                f"A loaded base model was given together with {', '.join(given)}",
                expected="model arguments only where from_pretrained loads the base model",
                action="pass them where you load it",
            )
        return base_model
    source = base_name(folder, config, base_model)
    revision = config.base_revision if base_model is None else None
    return load_base(source, revision=revision, quantization=quantization, **model_kwargs)
