"""The one place that knows what transformers calls things: whatever a release renames is asked for here, once.

Transformers 5.24 renamed ``past_key_values`` to ``cache``: in the arguments of ``generate`` and of forward passes, in what
``prepare_inputs_for_generation`` is handed, and in outputs. Transformers 5.23 renamed gradient checkpointing to activation
checkpointing. Knows names; knows nothing of routing, of training or of what a cache holds.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import GenerationMixin, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

_OLD_CACHE = "past_key_values"

CACHE = "cache" if "cache" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters else _OLD_CACHE
"""The installed library's name of a key-value cache, as an argument and as a field of outputs."""

_CHECKPOINTING = "activation_checkpointing" if hasattr(PreTrainedModel, "activation_checkpointing_enable") else "gradient_checkpointing"


def cache_of(output: Any) -> Any:
    """The key-value cache of a model's output; ``None`` where it has none."""
    return getattr(output, CACHE, None)


def cache_argument(model: nn.Module) -> str:
    """The name under which a model's forward pass takes its cache: the library's, or the old one in code that came before it."""
    taken = inspect.signature(model.forward).parameters
    return CACHE if CACHE in taken or _OLD_CACHE not in taken else _OLD_CACHE


def in_layers(config: Any, name: str) -> list[Any]:
    """The values that a setting of a decoder's config has in its layers, which some models make unlike each other; none where all lack it.

    Since transformers 5.24 such a config refuses to name one value for all layers.
    """
    layers = [config]
    if getattr(config, "is_heterogeneous", False):
        layers = [config.per_layer_config[layer] for layer in range(config.num_hidden_layers)]
    return [value for layer in layers if (value := getattr(layer, name, None)) is not None]


def repeat_rows(cache: Any, copies: int, *, rows: int = 1) -> None:
    """Have each of a cache's rows as often as asked for, one after another, in place.

    By the method with which beams are reordered: ``batch_repeat_interleave`` is missing where some layers keep a recurrent state.
    """
    cache.reorder_cache(torch.arange(rows).repeat_interleave(copies))


def accept_cache(model: nn.Module) -> RemovableHandle | None:
    """Let a model whose forward pass takes its cache under the old name take it under the library's present one as well.

    Remote code written before the rename needs it: ``generate`` passes a cache under a name that such a model does not know, and
    a model that ignores unknown arguments then reads every token without the tokens before it.

    Returns:
        The handle that removes this again; ``None`` where nothing had to be done.
    """
    if cache_argument(model) == CACHE or _by_the_old_name in model._forward_pre_hooks.values():
        return None
    return model.register_forward_pre_hook(_by_the_old_name, with_kwargs=True)


def _by_the_old_name(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {_OLD_CACHE if name == CACHE else name: value for name, value in kwargs.items()}


def enable_checkpointing(model: Any, **options: Any) -> None:
    """Turn gradient checkpointing on; ``options`` are for ``torch.utils.checkpoint.checkpoint``, by default the library's."""
    getattr(model, f"{_CHECKPOINTING}_enable")(**{f"{_CHECKPOINTING}_kwargs": options or None})


def disable_checkpointing(model: Any) -> None:
    """Turn gradient checkpointing off."""
    getattr(model, f"{_CHECKPOINTING}_disable")()


def quantizable_linears(model: PreTrainedModel, skipped: list[str] | None = None) -> list[nn.Module]:
    """The linear layers that transformers has bitsandbytes quantize: all but the head, what shares its weights, and what is skipped."""
    kept = HfQuantizer.get_modules_to_not_convert(model, skipped, list(model._keep_in_fp32_modules or ()))
    linear = [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear or isinstance(module, Conv1D)]
    return [module for name, module in linear if should_convert_module(name, kept)]


def read_head_in_order(model: Any) -> RemovableHandle | None:
    """Let a model's output head read hidden states that lie in memory one after another.

    Models cut the last token's out of a whole prompt's, which leaves gaps. PyTorch then multiplies frozen weights row by row of the batch,
    with a copy of them for each row: at a vocabulary of 49,152 and 64 rows that is 3.6 GB in bfloat16, and two hundred times slower. One
    row is copied for as well, whose strides alone tell of a gap.

    Returns:
        The handle that removes this again; ``None`` where a model has no such head.
    """
    head = model.get_output_embeddings()
    return head.register_forward_pre_hook(_in_order) if isinstance(head, nn.Module) else None


def _in_order(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if not args or not isinstance(args[0], Tensor):
        return args
    hidden = args[0]
    # What PyTorch asks for before it takes rows and tokens for one list of vectors; `contiguous` overlooks dimensions of 1.
    gaps = any(hidden.stride(axis) != hidden.stride(axis + 1) * hidden.shape[axis + 1] for axis in range(hidden.dim() - 2))
    return (hidden.clone(memory_format=torch.contiguous_format) if gaps else hidden, *args[1:])
