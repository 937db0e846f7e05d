"""Models under test, loaded once: every request for the same model with the same options gets the same weights and the same queue.

Knows how models are loaded; knows nothing of Inspect. A model stays in memory as long as somebody holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from weakref import WeakValueDictionary

import torch

from mogu.defenses import TargetModel
from mogu.errors import ConfigError
from mogu.evaluation.inspect.batching import Batcher

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded.

    Args:
        base_model: where the base of a saved MoGU model is now.
        baselines: folder of trained baselines.
        dtype: one of :data:`DTYPES`; ``"auto"`` is as saved.
        quantization: one of :data:`mogu.modeling.loading.QUANTIZATIONS`; ``"auto"`` is as trained.
        device: such as ``"cuda:0"``; by default a GPU where there is one.
        chat_template: a Jinja file in place of the tokenizer's template.
        system_prompt: for conversations that have none.
        trust_remote_code: whether the base model's own code may run.
    """

    base_model: str | None = None
    baselines: str | None = None
    dtype: str = "auto"
    quantization: str = "auto"
    device: str | None = None
    chat_template: str | None = None
    system_prompt: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, eq=False)  # looked up by what it was loaded from, never compared
class LoadedTarget:
    """A model under test and its queue."""

    target: TargetModel
    batcher: Batcher


_LOADED: WeakValueDictionary[tuple[str, LoadOptions], LoadedTarget] = WeakValueDictionary()
_LOADING = Lock()


def shared_target(path: str, options: LoadOptions) -> LoadedTarget:
    """Get the model at a path; it is loaded unless it is in memory already.

    Args:
        path: folder of a saved MoGU model, folder of a base model, or hub id of one.
        options: how to load it.

    Raises:
        ConfigError: an unknown dtype or quantization.
        ModelFileError: something is missing or broken.
    """
    if options.dtype not in DTYPES:
        raise ConfigError(f"dtype is {options.dtype!r}", expected=", ".join(DTYPES), action="choose one of them")
    folder = Path(path).expanduser()
    key = (str(folder.resolve()) if folder.exists() else path, options)
    with _LOADING:
        loaded = _LOADED.get(key)
        if loaded is None:
            loaded = _LOADED[key] = LoadedTarget(_load(path, options), Batcher())
    return loaded


def _load(path: str, options: LoadOptions) -> TargetModel:
    return TargetModel.load(
        path,
        base_model=options.base_model,
        baselines=_path(options.baselines),
        chat_template=_path(options.chat_template),
        system_prompt=options.system_prompt,
        trust_remote_code=options.trust_remote_code,
        quantization=options.quantization,
        dtype="auto" if options.dtype == "auto" else getattr(torch, options.dtype),
        device_map={"": options.device or ("cuda" if torch.cuda.is_available() else "cpu")},
    )


def _path(name: str | None) -> Path | None:
    return Path(name).expanduser() if name is not None else None
