"""Base models, classifiers and tokenizers, loaded with transformers.

Knows how to load what a source resolves to; knows nothing of what is done with it, nor of saved models.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mogu.errors import DataError, ModelFileError
from mogu.files.text_files import parse_json, read_any
from mogu.hub.adapters import adapter_error, has_adapter, refuse_adapter
from mogu.hub.errors import explain
from mogu.hub.quantization import loading_options, missing_bitsandbytes, no_layers, quantization_of, settle
from mogu.hub.sources import at_revision, cached_commit, resolve_source
from mogu.recipes import find_template
from mogu.recipes.settings import Quantization

CONFIG_FILE = "config.json"
_MOST_TEMPLATE = 2**20
_MOST_CONFIG = 2**24
_MOST_LAYERS = 4096
_SMALL = 2**28  # numbers that fit into memory anywhere

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_config(source: str, *, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The config of a base model.

    Args:
        source: a folder, a GGUF file, a name that ``mogu models ls`` lists or a hub id, see :func:`mogu.hub.resolve_source`.
        revision: commit on the hub.
        trust_remote_code: whether the model's own code may run.

    Raises:
        ModelFileError: it cannot be found or read, is an adapter, or needs remote code that the caller did not allow.
    """
    from transformers import AutoConfig

    found, revision = at_revision(resolve_source(source), revision)
    refuse_adapter(found)
    _check_claims(Path(found))
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(found, revision=revision or "main", trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever a config's class makes of fields of the wrong kind
        raise explain(found, error) from error
    return config


def load_base(
    source: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantization: Quantization | None = None,
    **model_kwargs: Any,
) -> PreTrainedModel:
    """A base model, ready to be wrapped.

    Args:
        source: as for :func:`load_config`.
        revision: commit on the hub.
        trust_remote_code: whether the model's own code may run.
        quantization: load its linear layers in 4 or 8 bits, see :func:`mogu.hub.quantization.loading_options`; a
            ``quantization_config`` comes first.
        model_kwargs: for ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        ModelFileError: it cannot be found or read, is an adapter, or needs remote code that the caller did not allow.
        ConfigError: it cannot be quantized so, or bitsandbytes is missing.
    """
    from transformers import AutoModelForCausalLM

    from mogu.transformers_compat import accept_cache

    found, revision = at_revision(resolve_source(source), revision)
    refuse_adapter(found)
    _check_claims(Path(found))
    if quantization is not None and model_kwargs.get("quantization_config") is None:
        config = load_config(source, revision=revision, trust_remote_code=trust_remote_code)
        model_kwargs |= loading_options(config, quantization, model_kwargs.get("dtype"), source=source)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            found, revision=revision or "main", trust_remote_code=trust_remote_code, **model_kwargs
        )
    except Exception as error:  # from_pretrained raises whatever its readers raise: torch, safetensors, json, pickle
        if isinstance(error, MemoryError):
            raise
        if isinstance(error, ImportError) and "bitsandbytes" in str(error):  # the model was saved in 4 or 8 bits
            raise missing_bitsandbytes() from error
        raise explain(found, error) from error
    if has_adapter(model):  # a repository of the hub that holds an adapter: transformers has loaded its base as well
        raise adapter_error(source)
    if quantization is not None and quantization_of(model) is None:
        raise no_layers(source, model, quantization)
    accept_cache(model)
    settle(model)
    model.config._commit_hash = cached_commit(found, revision)  # which transformers recorded until 5.23
    return model


def _check_claims(folder: Path) -> None:
    """Refuse a base model whose config asks for more layers than any has, or for larger embeddings than the weights beside it can hold.

    Raises:
        ModelFileError: it does.
    """
    try:
        config = parse_json(read_any(folder / CONFIG_FILE, _MOST_CONFIG))
        sections = [section for section in (config, config.get("text_config")) if isinstance(section, dict)]
    except (DataError, ValueError, AttributeError):
        return  # there is none, or transformers says better what is wrong with it
    numbers = {name: value for section in sections for name, value in section.items() if isinstance(value, int)}
    layers = max((numbers.get(name, 0) for name in ("num_hidden_layers", "num_layers", "n_layer", "n_layers")), default=0)
    embeddings = numbers.get("vocab_size", 0) * max(numbers.get(name, 0) for name in ("hidden_size", "n_embd", "d_model"))
    weights = sum(file.stat().st_size for file in folder.glob("*") if file.suffix in (".safetensors", ".bin") and file.is_file())
    if layers > _MOST_LAYERS:
        claim = f"{layers:,} layers"
    elif weights and embeddings > max(2 * weights, _SMALL):  # down to four bits a number
        claim = f"embeddings of {embeddings:,} numbers, beside weights of {weights:,} bytes"
    else:
        return
    raise ModelFileError(
        f"The config of the base model in {folder} asks for {claim}",
        expected="the config that belongs to the weights",
        action="copy or download the model again; do not use a model whose maker you do not trust",
    )


def load_classifier(source: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """A sequence classifier in evaluation mode, and its tokenizer.

    Raises:
        ModelFileError: it cannot be found or read, or needs remote code.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    found, revision = at_revision(resolve_source(source), None)
    try:
        model = AutoModelForSequenceClassification.from_pretrained(found, revision=revision or "main")
        tokenizer = AutoTokenizer.from_pretrained(found, revision=revision or "main")
    except Exception as error:  # as for base models
        if isinstance(error, MemoryError):
            raise
        raise explain(found, error, what="classifier") from error
    return model.eval(), tokenizer


def load_tokenizer(
    source: str, *, revision: str | None = None, chat_template: Path | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """A tokenizer, padded on the left as generation needs it.

    Args:
        source: as for :func:`load_config`.
        revision: commit on the hub.
        chat_template: a Jinja file, or the name of a shipped template, that takes the place of the tokenizer's own.
        trust_remote_code: whether the tokenizer's own code may run.

    Raises:
        ModelFileError: there is no tokenizer, or the template file cannot be read.
        ConfigError: there is no such template.
    """
    from transformers import AutoTokenizer

    found, revision = at_revision(resolve_source(source), revision)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            found, revision=revision or "main", trust_remote_code=trust_remote_code
        )
    except Exception as error:  # tokenizers raise bare Exceptions for broken files
        raise explain(found, error, what="tokenizer") from error
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
        return read_any(find_template(file), _MOST_TEMPLATE)
    except DataError as error:
        raise ModelFileError(
            f"The chat template {file} cannot be read: {error.found}", expected="a Jinja file in UTF-8", action="check the path"
        ) from error
