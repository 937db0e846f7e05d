"""Base models, tokenizers and saved models, from a folder or the hub; safe by default.

Knows where things come from; knows nothing of what is done with them. Remote code runs only where the caller says so,
and pickled weights are read by PyTorch's restricted loader only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mogu.errors import ModelFileError, MoguError
from mogu.recipes import find_template
from mogu.transformers_compat import accept_cache

# Exact names: with a pattern a repository could bring any file along, code among them.
_SAVED_FILES = (
    "README.md",
    "base_identity.safetensors",
    "chat_template.jinja",
    "router.safetensors",
    *(f"{part}/{file}" for part in ("unwill", "glad", "backbone") for file in ("adapter_config.json", "adapter_model.safetensors")),
)


def fetch_model_folder(path_or_hub_id: str, *, marker: str) -> Path:
    """The folder of a saved model: a local one as it is, a hub repository downloaded to the hub's cache.

    Raises:
        ModelFileError: there is no such folder, nor a repository that can be reached.
    """
    folder = Path(path_or_hub_id).expanduser()
    if folder.exists():
        return folder
    if not _looks_like_hub_id(path_or_hub_id):
        raise ModelFileError(
            f"{path_or_hub_id} does not exist", expected="a folder of a saved MoGU model, or a hub repository", action="check the path"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path_or_hub_id, allow_patterns=[marker, *_SAVED_FILES]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise _not_found(path_or_hub_id, error) from error


def push_folder(folder: Path, repo_id: str, *, private: bool | None, token: str | None) -> str:
    """Upload a folder to a model repository of the hub, made if it is missing; returns its URL.

    Raises:
        MoguError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload MoGU model")
    except Exception as error:  # the hub's client lets errors of its HTTP library through, which differs by release
        raise MoguError(
            f"The model could not be pushed to {repo_id}: {_first_line(error)}",
            expected="a repository name such as you/safer-model, a hub that can be reached and a token that may write there",
            action="check the name, and log in with `hf auth login` or pass token=...",
        ) from error
    return str(url)


def load_config(source: str, *, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The config of a base model.

    Raises:
        ModelFileError: it cannot be found or read, or needs remote code that the caller did not allow.
    """
    try:
        config = AutoConfig.from_pretrained(_expand(source), revision=revision or "main", trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise _explain(source, error) from error
    assert isinstance(config, PreTrainedConfig)
    return config


def load_base(source: str, *, revision: str | None = None, trust_remote_code: bool = False, **model_kwargs: Any) -> PreTrainedModel:
    """A base model, ready to be wrapped.

    Raises:
        ModelFileError: it cannot be found or read, or needs remote code that the caller did not allow.
    """
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            _expand(source), revision=revision or "main", trust_remote_code=trust_remote_code, **model_kwargs
        )
    except Exception as error:  # from_pretrained raises whatever its readers raise: torch, safetensors, json, pickle
        if isinstance(error, MemoryError):
            raise
        raise _explain(source, error) from error
    accept_cache(model)
    return model


def load_classifier(source: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """A sequence classifier in evaluation mode, and its tokenizer.

    Raises:
        ModelFileError: it cannot be found or read, or needs remote code.
    """
    try:
        model = AutoModelForSequenceClassification.from_pretrained(_expand(source))
        tokenizer = AutoTokenizer.from_pretrained(_expand(source))
    except Exception as error:  # as for base models
        if isinstance(error, MemoryError):
            raise
        raise _explain(source, error, what="classifier") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return model.eval(), tokenizer


def load_tokenizer(source: str, *, chat_template: Path | None = None, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """A tokenizer, padded on the left as generation needs it.

    Args:
        source: folder or hub id.
        chat_template: a Jinja file, or the name of a shipped template, that takes the place of the tokenizer's own.
        trust_remote_code: whether the tokenizer's own code may run.

    Raises:
        ModelFileError: there is no tokenizer, or the template file cannot be read.
        ConfigError: there is no such template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(_expand(source), trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers raise bare Exceptions for broken files
        raise _explain(source, error, what="tokenizer") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    if chat_template is not None:
        tokenizer.chat_template = read_template(chat_template)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def read_template(file: Path) -> str:
    """The text of a chat template.

    Raises:
        ModelFileError: the file cannot be read.
    """
    try:
        return find_template(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(
            f"The chat template {file} cannot be read: {error}", expected="a Jinja file in UTF-8", action="check the path"
        ) from error


def _expand(source: str) -> str:
    return str(Path(source).expanduser()) if source.startswith("~") else source


def _looks_like_hub_id(source: str) -> bool:
    return not source.startswith((".", "/", "~")) and source.count("/") <= 1


def _explain(source: str, error: Exception, what: str = "base model") -> ModelFileError:
    text = str(error)
    if "trust_remote_code" in text:
        return ModelFileError(
            f"The {what} {source} needs code from its own repository to run",
            expected="a model whose code is part of transformers, or your word that this code may run",
            action="read that code, then pass --trust-remote-code (trust_remote_code=True in Python)",
        )
    if not Path(source).expanduser().exists():
        return _not_found(source, error, what)
    return ModelFileError(
        f"The {what} in {source} cannot be loaded: {_first_line(error)}",
        expected="a whole Hugging Face model folder that this release of transformers knows",
        action="copy or download it again, or upgrade transformers",
    )


def _not_found(source: str, error: Exception, what: str = "model") -> ModelFileError:
    return ModelFileError(
        f"The {what} {source} was not found: {_first_line(error)}",
        expected="a local folder, or a hub repository that this machine can reach",
        action="check the name, log in to the hub if the repository is gated, or download it first and give the folder",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
