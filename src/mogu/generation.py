"""Routed generation: the first tokens of an answer with routing, then the plain base model; with a marker, once more behind it.

Runs inside one call of Hugging Face's ``generate``, so that sampling, beams, streamers and stopping are its own. Knows
when to route and when to hand over; knows nothing of layers, training or files.
"""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mogu.config import Handoff
from mogu.errors import ConfigError
from mogu.openings import Openings
from mogu.rereading import LowerLayers
from mogu.transformers_compat import CACHE

if TYPE_CHECKING:
    from mogu.model import MoguModel

# Ways to generate in which one forward pass decides several tokens at once, so that no pass is the last routed one.
_SEVERAL_TOKENS_A_PASS = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "custom_generate")


def routed_generate(
    model: MoguModel,
    inputs: Tensor | None,
    *,
    routed_tokens: int | None,
    marker: tuple[int, ...],
    handoff: Handoff,
    **kwargs: Any,
) -> Any:
    """Call the base model's ``generate`` with its first ``routed_tokens`` tokens routed.

    Args:
        model: the model, in routing mode ``"on"``.
        inputs: prompt token ids ``[batch, tokens]``, as Hugging Face takes them.
        routed_tokens: ``m``; ``None`` routes every token.
        marker: token ids after which as many tokens are routed once more; none for no second opening.
        handoff: ``"recompute"`` empties the cache where routing begins or ends, so that what computes the next token reads
            everything anew; ``"continue"`` keeps the cache as it is.
        kwargs: everything else that ``generate`` takes.

    Raises:
        ConfigError: an option that cannot be combined with a routed opening.
    """
    _check(routed_tokens, handoff, kwargs)
    base: Any = model.base_model
    prompt = inputs if inputs is not None else kwargs.get("input_ids")
    if prompt is not None:
        batch, prompt_length = prompt.shape
    elif (embeds := kwargs.get("inputs_embeds")) is not None:
        batch, prompt_length = embeds.shape[0], 0
    else:
        batch, prompt_length = 1, 1  # Hugging Face then starts from one BOS token
    mask = kwargs.get("attention_mask")
    # With a cache of earlier turns, Hugging Face takes the prompt as the whole conversation or as its new part only.
    whole = mask is None or mask.shape[1] == prompt_length
    base_prepare = base.prepare_inputs_for_generation
    lower = LowerLayers.of(model) if handoff == "recompute" and routed_tokens and _reads_plainly(base, kwargs) else None
    opening = _Opening(model, base_prepare, batch, prompt_length, whole, Openings(routed_tokens, marker), handoff, lower)

    @functools.wraps(base_prepare)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        return opening.prepare(*args, **kwargs)

    # Everything that decodes passes its full sequences through this method before each forward pass; PEFT hooks in here too.
    hooked_before = vars(base).get("prepare_inputs_for_generation")
    base.prepare_inputs_for_generation = prepare
    try:
        return base.generate(inputs, **kwargs)
    finally:
        if hooked_before is None:
            del base.prepare_inputs_for_generation
        else:
            base.prepare_inputs_for_generation = hooked_before
        model.routing("on")
        if lower is not None:
            lower.close()
        opening.record_weights()


def _reads_plainly(base: Any, kwargs: dict[str, Any]) -> bool:
    """Whether rows keep their places, and nobody asks for what single layers compute."""
    config = kwargs.get("generation_config") or base.generation_config
    beams, *wanted = (
        kwargs.get(option, getattr(config, option, None)) for option in ("num_beams", "output_hidden_states", "output_attentions")
    )
    return (beams or 1) == 1 and not any(wanted)


def _check(routed_tokens: int | None, handoff: str, kwargs: dict[str, Any]) -> None:
    if routed_tokens is not None and (isinstance(routed_tokens, bool) or not isinstance(routed_tokens, int) or routed_tokens < 0):
        raise ConfigError(
            f"routed_tokens is {routed_tokens!r}", expected="None or a whole number from 0", action="give how many tokens to route"
        )
    if handoff not in ("recompute", "continue"):
        raise ConfigError(f"handoff is {handoff!r}", expected="'recompute' or 'continue'", action="choose one of the two")
    generation_config = kwargs.get("generation_config")
    for option in _SEVERAL_TOKENS_A_PASS:
        if kwargs.get(option) is not None or getattr(generation_config, option, None) is not None:
            raise ConfigError(
                f"generate was given {option}",
                expected="a way of decoding that makes one token a pass: greedy, sampling or beams",
                action="leave it out, or generate inside `with model.routing('off')`",
            )
    if kwargs.get("use_cache") is False or getattr(generation_config, "use_cache", None) is False:
        raise ConfigError("generate was given use_cache=False", expected="generation with a key-value cache", action="leave use_cache out")
    if handoff == "recompute" and kwargs.get("inputs_embeds") is not None and routed_tokens is not None:
        raise ConfigError(
            "generate was given inputs_embeds with handoff='recompute', which reads prompt and opening anew by their ids",
            expected="token ids, or handoff='continue'",
            action="pass input_ids, or handoff='continue'",
        )


class _Opening:
    """Follows one ``generate`` call and switches the routing mode before each forward pass."""

    def __init__(
        self,
        model: MoguModel,
        base_prepare: Any,
        batch: int,
        prompt_length: int,
        prompt_is_whole: bool,
        openings: Openings,
        handoff: Handoff,
        lower: LowerLayers | None,
    ) -> None:
        self.model = model
        self.base_prepare = base_prepare
        self.batch = batch
        self.prompt_length = prompt_length
        self.prompt_is_whole = prompt_is_whole
        self.openings = openings
        self.handoff = handoff
        self.lower = lower
        self.past_before: Any = None
        self.past_length = 0
        self.passes = 0
        self.recorded = False

    def prepare(self, input_ids: Tensor, next_sequence_length: int | None = None, **kwargs: Any) -> Any:
        """Stand in for ``prepare_inputs_for_generation``: same arguments, same result."""
        if self.passes == 0:
            self._remember_cache(kwargs.get(CACHE))
        self.passes += 1
        answers = input_ids[:, self.prompt_length :]
        routed = self.openings.routed(answers)
        if answers.shape[1] > 0:
            self.record_weights()
        self._route(routed)
        # From the sequences themselves: beams change places, and with them what has been read in which mode.
        if self.handoff == "recompute" and answers.shape[1] > 0 and routed != self.openings.routed(answers[:, :-1]):
            next_sequence_length = input_ids.shape[1] - (self.past_length if self.prompt_is_whole else 0)
            self._begin_again(input_ids, next_sequence_length, kwargs)
        return self.base_prepare(input_ids, next_sequence_length=next_sequence_length, **kwargs)

    def _route(self, routed: list[bool]) -> None:
        if all(routed) or not any(routed):
            self.model.routing("on" if routed[0] else "off")
        else:
            self.model.routing("on", rows=torch.tensor(routed, device=self.model.device))

    def _remember_cache(self, past: Any) -> None:
        self.past_length = past.get_seq_length() if past is not None else 0
        if self.past_length and self.handoff == "recompute":
            # A cache that the caller had filled (an earlier turn) must be as it was when everything is read again.
            self.past_before = copy.deepcopy(past)

    def _begin_again(self, input_ids: Tensor, tokens: int, kwargs: dict[str, Any]) -> None:
        """Make ready for a reading of ``tokens`` tokens, all that is not in the caller's cache."""
        past = kwargs.get(CACHE)
        lower, self.lower = self.lower, None  # it serves once
        if lower is not None and not lower.can_be_spared(past, tokens):
            lower.close()
            lower = None
        if lower is not None:
            lower.read_last(self.base_prepare(input_ids, next_sequence_length=1, **kwargs))
            lower.set_aside(past)
        self._rewind_cache(past)
        if lower is not None:
            lower.spare_next_pass()

    def _rewind_cache(self, past: Any) -> None:
        if past is None:
            raise ConfigError(
                f"{type(self.model.base_model).__name__} generates without a key-value cache",
                expected="a model that generates with a key-value cache of transformers",
                action="use handoff='continue'",
            )
        if self.past_length:
            before = copy.deepcopy(self.past_before) if self.openings.marker else self.past_before  # there may be another time
            past.__dict__.update(before.__dict__)  # in place: generate holds on to this very object
        else:
            past.reset()

    def record_weights(self) -> None:
        """Keep the routing weights at the end of each prompt, from the pass that read it."""
        if self.recorded or self.passes == 0 or self.openings.routed_tokens == 0:
            return
        self.recorded = True
        weights = self.model.last_token_weights()
        # Beams and samples of one prompt share its weights.
        self.model.prompt_weights = {name: one.view(len(one), self.batch, -1)[..., 0] for name, one in weights.items()}


def left_pad(prompts: list[list[int]], pad_token_id: int, device: torch.device) -> dict[str, Tensor]:
    """Left-padded ``input_ids`` and ``attention_mask`` ``[batch, longest]`` of token-id lists."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[row, longest - len(prompt) :] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
