"""A base model of which each process of a run holds a part: PyTorch's FSDP2, a decoder layer at a time.

The weights of each decoder layer are dealt out to the processes. A pass puts a layer together, which takes all processes, and lets go
of it again; so does the backward pass. What lies outside the layers, embeddings and head, is in every process whole, and so is all
that is trained: the base model's weights are frozen.

Processes do not make the same passes: one may have more replies to write, or make a pass more in a step, or compute alone while the
others wait. So before a layer is put together they agree which one it is: the highest that any of them needs. Those that need it
compute; the others hand over their parts of it, and ask again for theirs. A process that waits for others helps them until all of them
wait. A pass that leaves layers out, or ends early, is therefore no different from any other. Knows decoder layers and processes; knows
nothing of what is trained.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mogu.errors import ConfigError
from mogu.modeling.architectures import decoder_layer_name, find_linear_layers
from mogu.processes import count, help_while_waiting, highest, shards

_NONE = -1
"""In place of the number of a layer."""

_WHOLE_AT_A_TIME = 3
"""Layers in memory, at most: the one that computes; the next one, which is received; and the copy that it is taken apart into."""

_PLACE = "_mogu_place"
"""What a sharded parameter has: the number of its layer, the module that it is in, and its name there."""


def check_quantization(quantization: str | None) -> None:
    """Refuse what :func:`shard` would, of a base model that is still to be loaded.

    Args:
        quantization: what its linear layers will be in; ``None`` where they are not quantized.

    Raises:
        ConfigError: the processes are to share a quantized base model.
    """
    if quantization is not None and shards():
        raise _packed(f"weights in {quantization}")


def _packed(weights: str) -> ConfigError:
    return ConfigError(
        f"The base model has {weights}, and the processes were started for FSDP",
        expected="a base model that is not quantized, or processes that each hold all of it",
        action="use a base model in bfloat16, or start the processes by torchrun",
    )


def shard(base: PreTrainedModel, device: torch.device) -> None:
    """Deal out the weights of a base model to all processes, which call this together, and freeze them.

    The model comes to the device a layer at a time, of which each process keeps its part.

    Args:
        base: the base model, plain, on the CPU; the same in each process.
        device: where this process computes.

    Raises:
        ConfigError: its weights are packed, as those of a quantized model are, or PyTorch is too old.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    layers = _decoder_layers(base)
    packed = next((weight.dtype for layer in layers for weight in layer.parameters() if not weight.is_floating_point()), None)
    if packed is not None:
        raise _packed(f"weights of {packed}")
    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise ConfigError(
            f"PyTorch {torch.__version__} has a fully_shard that shards all or nothing",
            expected="PyTorch 2.7 or later for processes that were started for FSDP",
            action="upgrade it, or start the processes by torchrun",
        )
    base.requires_grad_(False)
    mesh = init_device_mesh(device.type, (count(),))
    for layer in layers:
        layer.to(device)
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    base.to(device)  # type: ignore[arg-type]
    if base.base_model is not base:  # what runs the layers lets each be received while the one before computes
        sharded = {parameter for layer in layers for parameter in layer.parameters()}
        fully_shard(base.base_model, mesh=mesh, reshard_after_forward=True, ignored_params=set(base.parameters()) - sharded)
    with torch.no_grad():  # in its first pass FSDP finds out what belongs together
        base(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False)
    for layer in layers:
        _layers.add(layer)
    help_while_waiting(_layers.help)


def whole(tensor: Tensor) -> Tensor:
    """A tensor as it is; of a sharded parameter a copy of all of it, for which any process may ask while the others compute or wait."""
    place = getattr(tensor, _PLACE, None)
    return tensor if place is None else _layers.copy_of(*place)


def bytes_per_process(base: PreTrainedModel) -> int:
    """The most that the weights of a base model take in each process: all of it, or its part and the layers that are whole at a time."""
    everything = sum(map(_bytes, base.parameters()))
    if not shards():
        return everything
    of_layers = [list(layer.parameters()) for layer in _decoder_layers(base)]
    sizes = [sum(map(_bytes, weights)) for weights in of_layers]
    rows = ((len(weight), _bytes(weight)) for weights in of_layers for weight in weights)  # dealt out by rows, the last ones filled up
    own = sum(-(-length // count()) * size // length for length, size in rows)
    return everything - sum(sizes) + own + _WHOLE_AT_A_TIME * max(sizes)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.itemsize


def _decoder_layers(base: PreTrainedModel) -> list[Any]:
    numbers = {decoder_layer_name(linear.name): linear.layer for of_path in find_linear_layers(base).values() for linear in of_path}
    return [base.get_submodule(name) for name in sorted(numbers, key=numbers.__getitem__)]


def _places(layer: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    for module in layer.modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield module, name, parameter


class _Layers:
    """The sharded layers of all base models of this process, by number, which are the same in all processes."""

    def __init__(self) -> None:
        self._layers: list[weakref.ref[Any]] = []
        self._last = _NONE  # the one that this process put together last

    def add(self, layer: Any) -> None:
        from torch.distributed.tensor import DTensor

        number = len(self._layers)
        self._layers.append(weakref.ref(layer))
        layer.set_modules_to_backward_prefetch([layer])  # itself, not the one below: other processes may not be in this pass
        some_module, some_name, _ = next(_places(layer))
        for module, name, parameter in _places(layer):
            setattr(parameter, _PLACE, (number, module, name))

        def need(*_: Any) -> None:
            # It may be together: gradient checkpointing makes a pass in the midst of a backward pass.
            if isinstance(getattr(some_module, some_name), DTensor):
                self._agree(number)

        def need_in_backward(_: nn.Module, __: Any, output: Any) -> None:
            for tensor in output if isinstance(output, tuple) else (output,):
                if isinstance(tensor, Tensor) and tensor.requires_grad:
                    tensor.register_hook(need)  # type: ignore[no-untyped-call]

        # Ahead of those of FSDP, which put the layer together.
        layer.register_forward_pre_hook(need, prepend=True)
        layer.register_forward_hook(need_in_backward, prepend=True)

    def help(self) -> None:
        """Hand over this process's parts of whatever layers others need, until no process needs any."""
        self._let_go()
        while (number := highest(_NONE)) != _NONE:
            self._hand_over(number)

    @torch.no_grad()
    def copy_of(self, number: int, module: nn.Module, name: str) -> Tensor:
        self._agree(number)
        layer = self._layer(number)
        layer.unshard()
        copy: Tensor = getattr(module, name).clone()
        layer.reshard()
        return copy

    def _agree(self, number: int) -> None:
        """Wait until it is the turn of a layer, and help with others until then."""
        self._let_go()
        while (needed := highest(number)) != number:
            self._hand_over(needed)
        self._last = number

    def _let_go(self) -> None:
        """Take apart what a pass that ended early has left together: this process could not help with it."""
        if self._last != _NONE and (layer := self._layers[self._last]()) is not None:
            layer.reshard()

    @torch.no_grad()
    def _hand_over(self, number: int) -> None:
        layer = self._layer(number)
        layer.unshard()
        layer.reshard()

    def _layer(self, number: int) -> Any:
        layer = self._layers[number]()
        assert layer is not None  # whoever needs it has the model, as all processes do
        return layer


_layers = _Layers()
