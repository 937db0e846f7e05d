"""The base model's second reading of prompt and opening, spared the decoder layers below the first routed one.

Those compute the same in a routed pass and in a plain one: their keys and values stay, and what they handed upward while the
opening was generated is handed upward again. Knows decoder layers and caches; knows nothing of tokens to generate.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from mogu.modeling.architectures import decoder_layer_name

if TYPE_CHECKING:
    from mogu.modeling.model import MoguModel


class _EndOfPass(Exception):
    """The layers below have done their part: what the model would do after them is not needed."""


class LowerLayers:
    """Keeps what the layers below the first routed one hand upward, and hands it upward again in place of computing it.

    Args:
        base: the base model.
        lower: its decoder layers below the first routed one, in order.
        first_routed: the first routed decoder layer.
    """

    def __init__(self, base: nn.Module, lower: list[nn.Module], first_routed: nn.Module) -> None:
        self._base, self._lower = base, lower
        self._kept: list[Tensor] = []
        self._doing: Literal["keep", "end", "feed"] = "keep"
        self._plain_output = True
        self._cache: Any = None
        self._cached: list[Any] = []
        self._forwards: list[tuple[nn.Module, Any]] = []
        self._handles = [
            first_routed.register_forward_pre_hook(self._enter, with_kwargs=True),
            lower[-1].register_forward_hook(self._look),
        ]

    @classmethod
    def of(cls, model: MoguModel) -> LowerLayers | None:
        """Those of a routed model; ``None`` where the first layer is routed. Until :meth:`close` they are listened to."""
        first, layer = model.routed_module_names[0], model.routed_layer_indices[0]
        if layer == 0:
            return None
        path = decoder_layer_name(first).rpartition(".")[0]
        base = model.base_model
        return cls(base, [base.get_submodule(f"{path}.{index}") for index in range(layer)], base.get_submodule(f"{path}.{layer}"))

    def can_be_spared(self, cache: object, tokens: int) -> bool:
        """Whether a second reading of so many tokens can do without the layers below: a growing cache, and nothing else asked of them."""
        if type(cache) is not DynamicCache or not self._plain_output:
            return False
        lower = cache.layers[: len(self._lower)]
        kept = sum(hidden.shape[1] for hidden in self._kept)
        return kept == tokens - 1 and all(type(one) in (DynamicLayer, DynamicSlidingWindowLayer) for one in lower)

    def read_last(self, inputs: dict[str, Any]) -> None:
        """Run the layers below, and no other, on the last token of the opening, which no pass has read yet."""
        self._doing = "end"
        try:
            self._base(**inputs)
        except _EndOfPass:
            self._doing = "keep"

    def set_aside(self, cache: Any) -> None:
        """Take what the layers below have cached out of a cache that is about to be emptied; the next pass puts it back."""
        self._cache, self._cached = cache, cache.layers[: len(self._lower)]
        cache.layers[: len(self._lower)] = [_emptied(layer) for layer in self._cached]

    def spare_next_pass(self) -> None:
        """In the next pass the layers below do nothing, and the first routed one reads what they handed upward before."""
        self._doing = "feed"
        for layer in self._lower:
            self._forwards.append((layer, vars(layer).get("forward")))
            layer.forward = _hand_on

    def close(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        for layer, before in self._forwards:
            if before is None:
                del layer.forward
            else:  # accelerate's, where weights lie elsewhere
                layer.forward = before
        self._handles, self._kept, self._forwards = [], [], []

    def _enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if self._doing != "feed":
            self._kept.append(hidden)
            if self._doing == "end":
                raise _EndOfPass
            return None
        self._cache.layers[: len(self._lower)] = self._cached
        again = torch.cat(self._kept, dim=1)
        self.close()
        return ((again, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": again})

    def _look(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._plain_output = self._plain_output and isinstance(output, Tensor)


def _hand_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _emptied(layer: Any) -> Any:
    """A cache layer like this one, with nothing in it and nothing shared."""
    fresh = copy.copy(layer)
    fresh.keys = fresh.values = None
    fresh.is_initialized = False
    fresh.reset()
    return fresh
