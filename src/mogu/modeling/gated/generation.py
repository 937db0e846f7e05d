"""Gated generation: the gate hears the prompt, experts answer what it flags, and an ear stays on the answers of the base model.

It runs inside calls of Hugging Face's ``generate``, so that sampling, beams, streamers and stopping are the library's own. A prompt that
is flagged is read a second time, with its expert; all others are read once. An answer that becomes malicious is taken back to a safe
place, and generated on from there by ``unwill``. Knows forward passes and caches; knows nothing of layers, training or files.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.cache_utils import DynamicCache, DynamicLayer

from mogu.errors import ConfigError
from mogu.inference.call_view import view_for_call
from mogu.inference.leaving_rows import LeavingRows
from mogu.inference.padding import left_pad, right_pad
from mogu.inference.turns import TurnMarks
from mogu.modeling.config import GateConfig, Responder
from mogu.modeling.gated.gate import Gate, Places, PromptReading, StreamHead, StreamReading
from mogu.modeling.gated.listening import Ear, HeldBack
from mogu.modeling.generation_options import check_options, setting
from mogu.modeling.routing import RoutingController
from mogu.modeling.routing_schedule import RoutingSchedule
from mogu.transformers_compat import CACHE, cache_argument

Boundary = Callable[[Sequence[int]], int]
"""Of an answer's tokens, how many stand before the end of its last whole sentence."""


def places_of(input_ids: Tensor, attention_mask: Tensor | None, marks: TurnMarks, *, read_before: int = 0) -> Places:
    """Where things are in a batch of prompts.

    Args:
        input_ids: whole prompts, ``[batch, tokens]``, padded on the left.
        attention_mask: 0 at padding; ``None`` where there is none.
        marks: what stands around the user's turns.
        read_before: columns that an earlier pass has read, and this one does not.
    """
    rows = input_ids.tolist()
    padding = [0] * len(rows) if attention_mask is None else (attention_mask.shape[1] - attention_mask.sum(1)).tolist()
    spans = [marks.spans(row[skipped:]) for row, skipped in zip(rows, padding, strict=True)]
    offsets = [int(skipped) - read_before for skipped in padding]
    return Places.of(spans, offsets, input_ids.shape[1] - read_before, input_ids.device)


def experts_for(probabilities: Tensor, config: GateConfig, among: Tensor | None = None) -> dict[str, Tensor]:
    """Which expert answers each prompt: by name, the rows it is on for, bool ``[batch]``; the base model answers all others.

    Args:
        probabilities: the gate's, ``[batch]``.
        config: the thresholds.
        among: the rows that the gate decides about, bool ``[batch]``; ``None`` is all.
    """
    refuse = probabilities >= config.refuse
    rows: dict[Responder, Tensor] = {"unwill": refuse}
    if config.careful is not None:
        rows["careful"] = (probabilities >= config.careful) & ~refuse
    if among is not None:
        rows = {name: chosen & among for name, chosen in rows.items()}
    return {name: chosen for name, chosen in rows.items() if chosen.any()}


class GatedGeneration:
    """One call of ``generate``.

    Args:
        base: the base model, its experts beside it.
        controller: the call's controller, active in this thread.
        gate: the prompt gate.
        config: what follows from probabilities.
        dial: ``δ``, added to the gate's logit.
        schedule: which tokens of a flagged prompt's answer its expert is on for.
        marks: what stands around the user's turns.
        stream: the stream head; ``None`` does not listen.
        boundary: where an answer can be taken back to.
        rows: the rows of the batch that the gate decides about, bool ``[batch]``, the base model answering all others; ``None`` is all.
    """

    logits: Tensor | None = None
    """``z`` of each prompt with the dial, ``[batch]``, once the prompts have been read."""

    def __init__(
        self,
        base: Any,
        controller: RoutingController,
        gate: Gate,
        config: GateConfig,
        *,
        dial: float,
        schedule: RoutingSchedule,
        marks: TurnMarks,
        stream: StreamHead | None = None,
        boundary: Boundary,
        rows: Tensor | None = None,
    ) -> None:
        self.base, self.controller, self.rows = base, controller, rows
        self.gate, self.config, self.dial = gate, config, dial
        self.schedule, self.marks = schedule, marks
        self.stream, self.boundary = stream, boundary
        self._passes = 0
        self._ear: Ear | None = None

    def generate(self, inputs: Tensor | None, **kwargs: Any) -> Any:
        """What Hugging Face's ``generate`` takes and returns.

        Args:
            inputs: prompt token ids ``[batch, tokens]``.
            kwargs: everything else that ``generate`` takes.

        Raises:
            ConfigError: an option that cannot be combined with a gate.
        """
        kwargs |= check_options(self.base, self.schedule, "continue", kwargs)
        prompt = inputs if inputs is not None else kwargs.pop("input_ids", None)
        if prompt is None or kwargs.get("inputs_embeds") is not None:
            raise ConfigError(
                "generate was given no token ids, in which the gate could find the user's turns",
                expected="input_ids",
                action="pass token ids, or generate inside `with model.routing('off')`",
            )
        if setting(self.base, kwargs, "prefill_chunk_size")[0] is not None:
            raise ConfigError(
                "prefill_chunk_size is set, and the gate hears a prompt in one pass",
                expected="prompts that are read at once",
                action="leave it out, or generate inside `with model.routing('off')`",
            )
        self._prompt, self._mask = prompt, kwargs.get("attention_mask")
        view = view_for_call(self.base, forward=self._forward)
        if not self._can_listen(kwargs):
            return view.generate(prompt, **self._telling_who_leaves(kwargs))
        ear = self._ear = Ear(float(self.config.listen or 0), len(prompt))
        streamer = kwargs.get("streamer")
        held = None if streamer is None else HeldBack(streamer, self.config.hold_back, ear)
        first = self._telling_who_leaves(kwargs) | ({} if held is None else {"streamer": held})
        first["stopping_criteria"] = StoppingCriteriaList([*(kwargs.get("stopping_criteria") or []), ear])
        output = view.generate(prompt, **first)
        if ear.alarms:
            output = self._go_on(output, ear, kwargs, held)
        if held is not None:
            held.close()
        return output

    def _can_listen(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether rows keep their places, and nobody else holds what an answer that is taken back leaves behind."""
        if self.stream is None or self.config.listen is None or kwargs.get(CACHE) is not None:
            return False
        beams, several, as_dict = (
            setting(self.base, kwargs, name)[0] for name in ("num_beams", "num_return_sequences", "return_dict_in_generate")
        )
        return (beams or 1) == 1 and (several or 1) == 1 and not as_dict

    def _telling_who_leaves(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        decode = kwargs.get("custom_generate")
        if not isinstance(decode, LeavingRows):
            return dict(kwargs)
        return {**kwargs, "custom_generate": replace(decode, on_leave=self._keep_rows)}

    def _keep_rows(self, stay: Tensor) -> None:
        experts = self.controller.experts
        self.controller.experts = {name: rows if rows is None else rows[stay.to(rows.device)] for name, rows in experts.items()}
        if self._ear is not None:
            self._ear.keep(stay)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        self._passes += 1
        if self._passes == 1:
            return self._read_prompts(*args, **kwargs)
        if self.schedule.routed_tokens != "all" and self._passes > self.schedule.routed_tokens:
            self.controller.experts = {}
        output = self.base.forward(*args, **kwargs)
        if self._ear is not None:
            self._ear.hear()
        return output

    def _read_prompts(self, *args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get(cache_argument(self.base))
        cached = cache.get_seq_length() if cache is not None else 0
        # A cache that the caller had filled (an earlier turn) must be as it was when a flagged prompt is read again.
        before = copy.deepcopy(cache) if cached and not _can_crop(cache) else None
        self.controller.reader = reading = PromptReading(self.gate, self._places(kwargs["input_ids"], kwargs.get("attention_mask")))
        output = self.base.forward(*args, **kwargs)
        self.controller.reader = None
        logits = reading.logits() + self.dial
        times = len(logits) // len(self._prompt)  # beams and samples of one prompt share its logit
        self.logits = logits[::times]
        among = None if self.rows is None else self.rows.cpu().repeat_interleave(times)
        experts = experts_for(logits.sigmoid(), self.config, among) if self.schedule.routes_anything else {}
        if experts:
            # On the device once, rather than in every layer of every pass.
            self.controller.experts = {name: None if chosen.all() else chosen.to(output.logits.device) for name, chosen in experts.items()}
            if cache is not None:
                _rewind(cache, cached, before)
            output = self.base.forward(*args, **kwargs)
        if self._ear is not None and self.stream is not None:
            answered_by_base = ~torch.stack([torch.zeros(len(logits), dtype=torch.bool), *experts.values()]).any(0)
            self.controller.reader = reading_on = StreamReading(self.stream, logits)
            self._ear.start(reading_on, answered_by_base)
        return output

    def _places(self, read: Tensor, mask: Any) -> Places:
        """Where things are in a pass that reads ``[rows, tokens]``: all or the end of each prompt, each beam and sample in a row."""
        length = self._prompt.shape[1]
        ids = self._prompt.repeat_interleave(len(read) // len(self._prompt), 0)
        if not isinstance(mask, Tensor) or mask.dim() != 2:  # made into another form by the model
            mask = None if self._mask is None else self._mask.repeat_interleave(len(read) // len(self._prompt), 0)
        # The mask may be that of a whole conversation of which the prompt is the new part.
        return places_of(ids, None if mask is None else mask[:, -length:], self.marks, read_before=length - read.shape[1])

    def _go_on(self, output: Tensor, ear: Ear, kwargs: Mapping[str, Any], held: HeldBack | None) -> Tensor:
        """Generate on with ``unwill`` from where each alarming answer was still harmless; return all answers."""
        length, limit = self._prompt.shape[1], self._most_tokens(kwargs)
        pad = kwargs.get("pad_token_id")
        pad = int(pad if pad is not None else setting(self.base, kwargs, "pad_token_id")[0] or 0)
        rows = output.tolist()
        begun: dict[int, list[int]] = {}
        for row in ear.alarms:
            safe = rows[row][length : length + ear.harmless_tokens(row)]
            begun[row] = rows[row][length:][: max(self.boundary(safe), 0 if held is None else held.shown)]
        if held is not None:
            held.take_back(len(begun[0]))
        prompts = [self._unpadded(row) + answer for row, answer in begun.items()]
        batch = left_pad(prompts, pad, output.device)
        remaining = limit - min(map(len, begun.values()))
        options = {name: value for name, value in kwargs.items() if name not in _OF_THE_FIRST_CALL}
        if held is not None:
            options["streamer"] = held
        self.controller.reader, self.controller.experts, self._ear = None, {"unwill": None}, None
        again = self.base.generate(**batch, **options, max_new_tokens=remaining).tolist()
        for row, tokens in zip(begun, again, strict=True):
            answer = begun[row] + tokens[batch["input_ids"].shape[1] :]
            rows[row] = rows[row][:length] + answer[:limit]
        return right_pad(rows, pad, output.device)

    def _unpadded(self, row: int) -> list[int]:
        ids = self._prompt[row]
        kept: list[int] = (ids if self._mask is None else ids[self._mask[row].bool()]).tolist()
        return kept

    def _most_tokens(self, kwargs: Mapping[str, Any]) -> int:
        most = setting(self.base, kwargs, "max_new_tokens")[0]
        longest = setting(self.base, kwargs, "max_length")[0]
        return int(most if most is not None else (longest or 20) - self._prompt.shape[1])


_OF_THE_FIRST_CALL = frozenset(
    {"attention_mask", "position_ids", "max_new_tokens", "max_length", "min_new_tokens", "min_length", "streamer"}
)
"""What the second call of a listening generation has of its own."""


def _can_crop(cache: Any) -> bool:
    return type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)


def _rewind(cache: Any, cached: int, before: Any) -> None:
    """Make a cache what it was before a pass, in place: generate holds on to this very object."""
    if before is not None:
        cache.__dict__.update(before.__dict__)
    elif cached:
        cache.crop(cached - cache.get_seq_length())  # how many tokens to drop, as a negative number
    else:
        cache.reset()
