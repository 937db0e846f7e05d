"""Loading saved models into a worker's LoRA slots; a careful responder takes a slot of its own, under an id of its own.

Knows saved models and vLLM's adapter manager; knows nothing of requests, steps or positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights
from vllm.lora.request import LoRARequest
from vllm.lora.utils import parse_fine_tuned_lora_name

from mogu.errors import ConfigError, ModelFileError
from mogu.serving.layer import RoutedRowParallelLinear
from mogu.serving.packed_adapter import PlainLora, ServedGate, read_packed_adapter

Part = TypeVar("Part")

_CAREFUL = 1 << 30
"""What stands between the id of a saved model and that of its careful responder; vLLM counts adapters from 1."""


def careful_request(lora_request: LoRARequest) -> LoRARequest:
    """The careful responder beside a saved model, as an adapter of vLLM's: other tokens, other blocks, another slot."""
    # No name that a caller or an operator can give has a zero byte in it.
    return LoRARequest(f"{lora_request.lora_name}\0careful", lora_request.lora_int_id + _CAREFUL, lora_request.lora_path)


def check_new(lora_request: LoRARequest) -> None:
    """Refuse to put a saved model in the place of another one, whose requests, blocks and careful responder would outlive it.

    Raises:
        ConfigError: that is asked for.
    """
    if lora_request.load_inplace:
        raise ConfigError(
            f"The model {lora_request.lora_path} is to be loaded in place (load_inplace)",
            expected="a saved model that is loaded anew",
            action=f"unload {lora_request.lora_name!r}, then load it without load_inplace",
        )


def load_mogu_adapter(folder: Path, adapter_id: int, manager: Any) -> LoRAModel:
    """Load a saved model as a vLLM adapter for the slots of :class:`RoutedRowParallelLinear`.

    A careful responder is checked and kept when its model is loaded, since it is asked for in the midst of a step, where nobody could be
    told that it does not fit.

    Args:
        folder: folder of the saved model.
        adapter_id: the adapter's id in vLLM, or the id of :func:`careful_request`.
        manager: vLLM's adapter manager, which knows the layers of the base model.

    Raises:
        MoguError: the folder cannot be used, or does not fit the base model or the server's options.
    """
    if adapter_id > _CAREFUL:
        kept: PlainLora = manager.mogu_careful[adapter_id - _CAREFUL]
        return LoRAModel(adapter_id, max(len(lora_a) for lora_a, _ in kept.values()), _plain_layers(kept))
    adapter = read_packed_adapter(folder)
    max_rank = manager.lora_config.max_lora_rank
    if adapter.rank > max_rank:
        raise ConfigError(
            f"The model {folder} needs a LoRA rank of {adapter.rank}, but the server allows {max_rank}",
            expected=f"--max-lora-rank of at least {adapter.rank} (2r + 2)",
            action="start the server with `mogu serve`, or with that option",
        )
    if manager.lora_slots < adapter.slots:
        raise ConfigError(
            f"The model {folder} needs {adapter.slots} LoRA slots, one of them for its careful responder, but the server has "
            f"{manager.lora_slots}",
            expected=f"--max-loras of at least {adapter.slots}",
            action="start the server with `mogu serve`, or with that option",
        )
    layers, plain = _named_as_in_vllm(adapter.layers, manager), _named_as_in_vllm(adapter.plain, manager)
    careful = _named_as_in_vllm(adapter.careful, manager)
    for name, layer in layers.items():
        _check_layer(folder, name, layer, manager.modules.get(name))
    for name, pair in (*plain.items(), *careful.items()):
        _check_plain(folder, name, pair, manager)
    if adapter.gate is not None:
        _check_gate(folder, adapter.gate, manager)
        manager.__dict__.setdefault("mogu_gates", {})[adapter_id] = adapter.gate
        manager.__dict__.setdefault("mogu_careful", {})[adapter_id] = careful
    # vLLM passes lists on to set_lora as they are; `expand` already contains the scaling.
    routed = {
        name: LoRALayerWeights(name, adapter.rank, adapter.rank, [layer.shrink], [layer.expand, layer.biases], scaling=1)
        for name, layer in layers.items()
    }
    return LoRAModel(adapter_id, adapter.rank, routed | _plain_layers(plain))


def _named_as_in_vllm(layers: Mapping[str, Part], manager: Any) -> dict[str, Part]:
    mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
    mapper = mapper.get_rename_mapper() if mapper is not None else None
    return {str(parse_fine_tuned_lora_name(f"base_model.model.{name}.lora_A.weight", mapper)[0]): layer for name, layer in layers.items()}


def _plain_layers(plain: PlainLora) -> dict[str, LoRALayerWeights]:
    return {name: LoRALayerWeights(name, len(lora_a), len(lora_a), lora_a, lora_b, scaling=1) for name, (lora_a, lora_b) in plain.items()}


def _check_gate(folder: Path, served: ServedGate, manager: Any) -> None:
    taps = getattr(manager, "mogu_taps", [])
    if not set(served.taps) <= set(taps):
        raise ConfigError(
            f"The gate of {folder} reads the layers {list(served.taps)}, and this server hands out {taps or 'none'}",
            expected="a server that was started with this model",
            action="start it with `mogu serve` and all gated models by name",
        )
    width = manager.model.config.get_text_config().hidden_size
    found = next(iter(served.gate.vectors.values())).shape[1]
    if found != width:
        raise ModelFileError(
            f"The gate of {folder} reads {found} numbers a token, and the base model has {width}",
            expected="the base model it was trained on",
            action="serve it on its own base model",
        )


def _check_plain(folder: Path, name: str, pair: tuple[Tensor, Tensor], manager: Any) -> None:
    # vLLM merges q, k and v, and gate and up, into one module each. It packs such adapters itself and silently drops what does not fit.
    places = {part: (module, index) for module, parts in manager.packed_modules.items() for index, part in enumerate(parts)}
    module, index = places.get(name, (name, 0))
    layer = manager.modules.get(module)
    if layer is None:
        raise ModelFileError(
            f"The model {folder} adapts {name}, which is not a LoRA layer in this server",
            expected="the base model it was trained on, served with LoRA on all layers that the model adapts",
            action="serve it on its own base model with `mogu serve`, or leave out --lora-target-modules",
        )
    slots = layer.lora_a_stacked[index].shape[-1], layer.lora_b_stacked[index].shape[-2]
    found = pair[0].shape[1], pair[1].shape[0]
    if layer.tp_size == 1 and found != slots:  # with several workers a slot holds a part of each, or a copy
        raise ModelFileError(
            f"The model {folder} maps {found[0]} → {found[1]} at {name}, but the base model {slots[0]} → {slots[1]}",
            expected="the base model it was trained on",
            action="serve it on its own base model",
        )


def _check_layer(folder: Path, name: str, layer: Any, module: Any) -> None:
    if not isinstance(module, RoutedRowParallelLinear):
        raise ModelFileError(
            f"The model {folder} routes {name}, which is {type(module).__name__ if module is not None else 'no LoRA layer'} in this server",
            expected="the base model it was trained on, served with LoRA on its attention output projections, not fully sharded",
            action="serve it on its own base model, and leave out --fully-sharded-loras and --lora-target-modules",
        )
    d_in, d_out = module.input_size * module.tp_size, module.output_size
    if layer.shrink.shape[1] != d_in or layer.expand.shape[0] != d_out:
        raise ModelFileError(
            f"The model {folder} maps {layer.shrink.shape[1]} → {layer.expand.shape[0]} at {name}, but the base model {d_in} → {d_out}",
            expected="the base model it was trained on",
            action="serve it on its own base model",
        )
