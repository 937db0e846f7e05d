"""The base model's second reading of prompt and opening, without computing the decoder layers below the first routed one again.

Those layers compute the same in a routed pass and in a plain one: their keys and values stay in the cache, and what they handed upward
while the opening was generated is handed upward again. All of it happens in a view of the base model that belongs to one call: an
object that shares every weight and every module but the few that listen, so that other calls of the same model notice nothing. Knows
decoder layers and caches; knows nothing of routing or of the tokens to generate.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class _EndOfPass(Exception):
    """The layers below have done their part: what the model would do after them is not needed."""


class LowerLayerReuse:
    """Keeps what the layers below the first routed one hand upward, and hands it upward again instead of computing it.

    Args:
        base: the base model.
        layers: full name of the list of its decoder layers, such as ``"model.layers"``.
        first_routed: index of the first routed layer, at least 1.
    """

    def __init__(self, base: nn.Module, layers: str, first_routed: int) -> None:
        self._count = first_routed
        self._kept: list[Tensor] = []
        self._phase: Literal["keep", "end", "feed", "done"] = "keep"
        self._plain_output = True
        self._cache: Any = None
        self._cached: list[Any] = []
        modules = base.get_submodule(layers)
        stand_ins = {str(index): _stand_in(modules.get_submodule(str(index)), self._lower) for index in range(first_routed)}
        stand_ins[str(first_routed)] = _stand_in(modules.get_submodule(str(first_routed)), self._first)
        self.model = _view(base, layers, stand_ins)
        """The base model as this call runs it."""

    def can_skip(self, cache: object, tokens: int) -> bool:
        """Whether a second reading of ``tokens`` tokens can do without the lower layers: a growing cache, and all of their output kept."""
        if type(cache) is not DynamicCache or not self._plain_output:
            return False
        lower = cache.layers[: self._count]
        kept = sum(hidden.shape[1] for hidden in self._kept)
        return kept == tokens - 1 and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in lower)

    def read_last(self, inputs: dict[str, Any]) -> None:
        """Run the lower layers, and no other, on the last token of the opening, which no pass has read yet."""
        self._phase = "end"
        try:
            self.model(**inputs)
        except _EndOfPass:
            self._phase = "keep"

    def set_aside(self, cache: Any) -> None:
        """Take what the lower layers have cached out of a cache that is about to be emptied; the next pass puts it back."""
        self._cache, self._cached = cache, cache.layers[: self._count]
        cache.layers[: self._count] = [_emptied(layer) for layer in self._cached]

    def skip_next_pass(self) -> None:
        """In the next pass the lower layers compute nothing, and the first routed one reads what they handed upward before."""
        self._phase = "feed"

    def stop(self) -> None:
        """Keep nothing more: from now on all layers compute."""
        self._phase, self._kept = "done", []

    def _lower(self, layer: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._phase == "feed":
            return hidden_states
        output = layer(hidden_states, *args, **kwargs)
        self._plain_output = self._plain_output and isinstance(output, Tensor)
        return output

    def _first(self, layer: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._phase == "feed":
            self._cache.layers[: self._count] = self._cached
            hidden_states = torch.cat(self._kept, dim=1)
            self.stop()
        elif self._phase != "done":
            self._kept.append(hidden_states)
            if self._phase == "end":
                raise _EndOfPass
        return layer(hidden_states, *args, **kwargs)


def _view(base: nn.Module, layers: str, stand_ins: Mapping[str, nn.Module]) -> nn.Module:
    """A base model in whose list of decoder layers some have stand-ins; the base model itself stays as it is."""
    path = layers.split(".")
    replaced: Mapping[str, nn.Module] = stand_ins
    for depth in range(len(path), 0, -1):
        replaced = {path[depth - 1]: _with_children(base.get_submodule(".".join(path[:depth])), replaced)}
    return _with_children(base, replaced)


def _with_children(module: ModuleT, children: Mapping[str, nn.Module]) -> ModuleT:
    """A module that shares everything with another one but some of its children."""
    view: ModuleT = object.__new__(type(module))
    view.__dict__ = {name: _rebound(value, module, view) for name, value in vars(module).items()}
    view.__dict__["_modules"] = {**module._modules, **children}
    return view


def _rebound(value: Any, module: nn.Module, view: nn.Module) -> Any:
    """An attribute for a view: methods that were put on the module itself, as accelerate puts them there, are the view's own."""
    if isinstance(value, types.MethodType) and value.__self__ is module:
        return types.MethodType(value.__func__, view)
    if isinstance(value, functools.partial) and value.args[:1] == (module,):
        return functools.update_wrapper(functools.partial(value.func, view, *value.args[1:], **value.keywords), value)
    return value


def _stand_in(layer: nn.Module, forward: Any) -> nn.Module:
    """A decoder layer that has another one's attributes, and hands its calls to ``forward`` with that layer in front."""
    stand_in = object.__new__(type(layer))
    hooks = {name: type(value)() for name, value in vars(layer).items() if name.endswith("_hooks") and isinstance(value, dict)}
    stand_in.__dict__ = {**vars(layer), **hooks, "forward": functools.partial(forward, layer)}
    return stand_in


def _emptied(layer: Any) -> Any:
    """A cache layer like this one, with nothing in it and nothing shared."""
    fresh = copy.copy(layer)
    fresh.keys = fresh.values = None
    fresh.is_initialized = False
    fresh.reset()
    return fresh
