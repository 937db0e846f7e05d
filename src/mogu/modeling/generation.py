"""Routed generation: the first tokens of an answer with routing, then the plain base model; with a marker, once more behind it.

It runs inside one call of Hugging Face's ``generate``, so that sampling, beams, streamers and stopping are the library's own. It knows
when to route and when to hand over to the base model. It knows nothing of layers, training or files.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mogu.errors import ConfigError
from mogu.inference.call_view import view_for_call
from mogu.inference.leaving_rows import LeavingRows
from mogu.modeling.config import Handoff
from mogu.modeling.generation_options import check_options, setting
from mogu.modeling.prefix_reuse import LowerLayerReuse
from mogu.modeling.routing import RoutingController
from mogu.modeling.routing_schedule import RoutingSchedule
from mogu.transformers_compat import CACHE


class RoutedGeneration:
    """One call of ``generate`` with a routed opening; it sets how each forward pass is routed before the pass is made.

    Args:
        base: the base model, its layers routed.
        controller: the call's controller, active in this thread.
        schedule: which tokens of an answer are routed.
        handoff: ``"recompute"`` empties the cache where routing begins or ends, so that what computes the next token reads
            everything again; ``"continue"`` keeps the cache as it is.
        decoder_layers: full name of the list of decoder layers, such as ``"model.layers"``.
        first_routed: index of the first routed decoder layer; with ``"recompute"`` the layers below are spared a second reading.
        rows: the prompts that are routed, bool ``[batch]``, the base model answering all others; ``None`` is all.
    """

    prompt_weights: dict[str, Tensor] | None = None
    """``{"unwill": α, "glad": β}``, each ``[layers, batch]``, at the last prompt token; ``None`` where the pass over it was not routed."""

    def __init__(
        self,
        base: Any,
        controller: RoutingController,
        schedule: RoutingSchedule,
        handoff: Handoff,
        *,
        decoder_layers: str,
        first_routed: int,
        rows: Tensor | None = None,
    ) -> None:
        self.base, self.controller, self.rows = base, controller, rows
        self.schedule, self.handoff = schedule, handoff
        self._decoder_layers, self._first_routed = decoder_layers, first_routed
        self._batch = self._prompt_length = self._cached_length = self._passes = 0
        self._prompt_is_whole = True
        self._among: Tensor | None = None
        self._cache_before: Any = None
        self._reuse: LowerLayerReuse | None = None

    def generate(self, inputs: Tensor | None, **kwargs: Any) -> Any:
        """What Hugging Face's ``generate`` takes and returns.

        Args:
            inputs: prompt token ids ``[batch, tokens]``.
            kwargs: everything else that ``generate`` takes.

        Raises:
            ConfigError: an option that cannot be combined with a routed opening.
        """
        kwargs |= check_options(self.base, self.schedule, self.handoff, kwargs)
        prompt = inputs if inputs is not None else kwargs.get("input_ids")
        if prompt is not None:
            self._batch, self._prompt_length = prompt.shape
        elif (embeds := kwargs.get("inputs_embeds")) is not None:
            self._batch, self._prompt_length = embeds.shape[0], 0
        else:
            self._batch, self._prompt_length = 1, 1  # Hugging Face then starts from one BOS token
        mask = kwargs.get("attention_mask")
        # With a cache of earlier turns, Hugging Face takes the prompt as the whole conversation or as its new part only.
        self._prompt_is_whole = mask is None or mask.shape[1] == self._prompt_length
        model = self.base
        if self._first_routed and self.handoff == "recompute" and self.schedule.routes_anything and _reads_plainly(self.base, kwargs):
            self._reuse = LowerLayerReuse(self.base, self._decoder_layers, self._first_routed)
            model = self._reuse.model
            if isinstance(kwargs.get("custom_generate"), LeavingRows) and self.schedule.routed_tokens != "all":
                # What the lower layers hand upward during the opening is kept for all rows.
                kwargs["custom_generate"] = LeavingRows(hold=self.schedule.routed_tokens)
        decode = kwargs.get("custom_generate")
        if self.rows is not None and isinstance(decode, LeavingRows):
            kwargs["custom_generate"] = replace(decode, on_leave=self._keep_rows)
        # Everything that decodes passes its full sequences through this method before each forward pass.
        view = view_for_call(model, prepare_inputs_for_generation=self._preparation())
        output = view.generate(inputs, **kwargs)
        self._record_prompt_weights()
        return output

    def _preparation(self) -> Callable[..., Any]:
        base_prepare = self.base.prepare_inputs_for_generation

        @functools.wraps(base_prepare)
        def prepare(input_ids: Tensor, next_sequence_length: int | None = None, **kwargs: Any) -> Any:
            if self._passes == 0:
                self._remember_cache(kwargs.get(CACHE))
                if self.rows is not None:  # beams and samples of one prompt are routed alike
                    self._among = self.rows.cpu().repeat_interleave(len(input_ids) // len(self.rows))
            self._passes += 1
            answers = input_ids[:, self._prompt_length :]
            routed = self._routed(answers)
            if answers.shape[1] > 0:
                self._record_prompt_weights()
            self._route(routed, input_ids.device)
            # From the sequences themselves: beams change places, and with them what has been read in which mode.
            if self.handoff == "recompute" and answers.shape[1] > 0 and routed != self._routed(answers[:, :-1]):
                next_sequence_length = input_ids.shape[1] - (self._cached_length if self._prompt_is_whole else 0)
                self._begin_second_reading(base_prepare, input_ids, next_sequence_length, kwargs)
            return base_prepare(input_ids, next_sequence_length=next_sequence_length, **kwargs)

        return prepare

    def _routed(self, answers: Tensor) -> list[bool]:
        """Whether each row's next token is routed."""
        scheduled = self.schedule.routed(answers)
        if self._among is None:
            return scheduled
        return [now and chosen for now, chosen in zip(scheduled, self._among.tolist(), strict=True)]

    def _keep_rows(self, stay: Tensor) -> None:
        if self._among is not None:
            self._among = self._among[stay.cpu()]

    def _route(self, routed: list[bool], device: torch.device) -> None:
        mixed = any(routed) and not all(routed)
        self.controller.mode = "on" if routed[0] or mixed else "off"
        self.controller.rows = torch.tensor(routed, device=device) if mixed else None

    def _remember_cache(self, cache: Any) -> None:
        self._cached_length = cache.get_seq_length() if cache is not None else 0
        if self._cached_length and self.handoff == "recompute":
            # A cache that the caller had filled (an earlier turn) must be as it was when everything is read again.
            self._cache_before = copy.deepcopy(cache)

    def _begin_second_reading(self, base_prepare: Any, input_ids: Tensor, tokens: int, kwargs: dict[str, Any]) -> None:
        """Make ready for a reading of ``tokens`` tokens, all that is not in the caller's cache."""
        cache = kwargs.get(CACHE)
        reuse, self._reuse = self._reuse, None  # it serves once
        if reuse is not None and not reuse.can_skip(cache, tokens):
            reuse.stop()
            reuse = None
        if reuse is not None:
            reuse.read_last(base_prepare(input_ids, next_sequence_length=1, **kwargs))
            reuse.set_aside(cache)
        self._rewind_cache(cache)
        if reuse is not None:
            reuse.skip_next_pass()

    def _rewind_cache(self, cache: Any) -> None:
        if cache is None:
            raise ConfigError(
                f"{type(self.base).__name__} generates without a key-value cache",
                expected="a model that generates with a key-value cache of transformers",
                action="use handoff='continue'",
            )
        if self._cached_length:
            before = copy.deepcopy(self._cache_before) if self.schedule.marker else self._cache_before  # there may be another time
            cache.__dict__.update(before.__dict__)  # in place: generate holds on to this very object
        else:
            cache.reset()

    def _record_prompt_weights(self) -> None:
        """Keep the routing weights at the end of each prompt, from the pass that read it."""
        if self.prompt_weights is not None or self._passes == 0 or not self.schedule.routes_anything:
            return
        weights = self.controller.last_token_weights(self.base.device)
        # Beams and samples of one prompt share its weights.
        self.prompt_weights = {name: weight.view(len(weight), self._batch, -1)[..., 0] for name, weight in weights.items()}


def _reads_plainly(base: Any, kwargs: dict[str, Any]) -> bool:
    """Whether rows keep their places, and nobody asks for what single layers compute."""
    beams, *per_layer = (setting(base, kwargs, option)[0] for option in ("num_beams", "output_hidden_states", "output_attentions"))
    return (beams or 1) == 1 and not any(per_layer)
