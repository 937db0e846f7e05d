"""Decoding in which rows that have ended leave their batch, so that one long reply does not go on paying for all the others.

It is the library's own loop: rows leave between two of its forward passes, and it never sees fewer than there were. Knows caches and
forward passes; knows nothing of prompts, of sampling or of what ends a reply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation.streamers import BaseStreamer

from mogu.inference.call_view import view_for_call
from mogu.transformers_compat import CACHE


@dataclass(frozen=True)
class LeavingRows:
    """A way to decode, for ``generate(custom_generate=LeavingRows())``: greedy or sampled, token for token what ``generate`` returns.

    All rows stay in models whose cache cannot let single rows go: a static, an offloaded or a recurrent one.

    Args:
        hold: until answers have more than this many tokens, all rows stay.
        on_leave: is told which of the rows that were left stay, bool ``[rows]``, before the pass that goes without the others.
        streamer: what ``generate`` was given as such, which it hands to its own loop alone; it gets a token of every row, ended or not.
    """

    hold: int = 0
    on_leave: Callable[[Tensor], None] | None = None
    streamer: BaseStreamer | None = None

    def __call__(self, model: Any, input_ids: Tensor, *, stopping_criteria: StoppingCriteriaList, **kwargs: Any) -> Any:
        """Decode as ``generate`` asks for it; takes and returns what the library's own loop does."""
        decode = type(model)._sample
        kwargs["streamer"] = self.streamer
        if len(input_ids) == 1 or not _can_leave(model, kwargs):
            return decode(model, input_ids, stopping_criteria=stopping_criteria, **kwargs)
        ended = _EndedRows(stopping_criteria)
        ended.rows = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        computed = _ComputedRows(model, ended, first_leave=input_ids.shape[1] + self.hold + 1, on_leave=self.on_leave)
        return decode(computed.view(), input_ids, stopping_criteria=ended, **kwargs)


def _can_leave(model: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether everything that has a line for each row is known, and can be had for some rows only."""
    cache = kwargs.get(CACHE)
    if type(cache) is not DynamicCache or cache.offloading or getattr(model, "_compiled_call_impl", None) is not None:
        return False
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return False
    return all(value.ndim == 2 for value in kwargs.values() if isinstance(value, Tensor))


class _EndedRows(StoppingCriteriaList):
    """Stopping criteria that remember which rows they have ended."""

    rows: Tensor

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        ended: Tensor = super().__call__(input_ids, scores, **kwargs)
        self.rows = self.rows | ended
        return ended


class _ComputedRows:
    """The rows that are still computed: a forward pass is given these alone, and what it returns is put back among all rows."""

    def __init__(self, model: Any, ended: _EndedRows, first_leave: int, on_leave: Callable[[Tensor], None] | None) -> None:
        self._model, self._ended, self._first_leave, self._on_leave = model, ended, first_leave, on_leave
        self._all = len(ended.rows)
        self._rows = torch.arange(self._all, device=ended.rows.device)

    def view(self) -> Any:
        """The model as the loop is to see it."""
        return view_for_call(self._model, prepare_inputs_for_generation=self._prepare, forward=self._forward)

    def _prepare(self, input_ids: Tensor, next_sequence_length: int | None = None, **kwargs: Any) -> Any:
        if input_ids.shape[1] >= self._first_leave:
            self._let_go(kwargs[CACHE])
        kwargs = {name: self._of_rows(value) for name, value in kwargs.items()}
        return self._model.prepare_inputs_for_generation(self._of_rows(input_ids), next_sequence_length=next_sequence_length, **kwargs)

    def _let_go(self, cache: DynamicCache) -> None:
        stay = ~self._ended.rows[self._rows]
        if stay.all() or not stay.any():  # a loop that looks for its end one token late makes a pass more
            return
        cache.batch_select_indices(stay.nonzero()[:, 0].cpu())  # layers may lie on several devices
        self._rows = self._rows[stay]
        if self._on_leave is not None:
            self._on_leave(stay)

    def _of_rows(self, value: Any) -> Any:
        # What has one line for all rows, such as positions without padding, stays as it is.
        return value[self._rows] if isinstance(value, Tensor) and len(value) == self._all > len(self._rows) else value

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self._model.forward(*args, **kwargs)
        if len(self._rows) < self._all:
            computed = output.logits
            output.logits = computed.new_zeros(self._all, *computed.shape[1:]).index_copy_(0, self._rows.to(computed.device), computed)
        return output
