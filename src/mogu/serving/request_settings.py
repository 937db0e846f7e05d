"""The routing settings of one request: how many tokens are routed, at which dial, and how the base model takes over.

Knows numbers and positions; knows nothing of vLLM, tensors or files.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mogu.errors import ConfigError
from mogu.modeling.config import Handoff, MoguConfig, RoutedTokens

FIELD = "mogu"
"""The field of API requests that holds overrides, and the key under which vLLM's ``SamplingParams.extra_args`` hold settings."""


class _Overrides(BaseModel):
    """Settings that a request may override; those it leaves out are the saved model's."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    routed_tokens: RoutedTokens | None = None
    dial: float | None = Field(default=None, allow_inf_nan=False)
    handoff: Handoff | None = None


class RequestSettings(BaseModel):
    """The complete routing settings of one request.

    Args:
        routed_tokens: ``m``, the number of tokens of the reply that are decoded with routing, or ``"all"``.
        dial: ``δ``, added to the unwill logit and subtracted from the glad logit, or added to the gate's.
        handoff: ``"continue"`` drops the adapter after ``m`` tokens and keeps the cache; with ``"recompute"`` the base model
            reads prompt and opening again, as published.
        gated: whether a gate decides about the request first; then one of its adapters answers, or the base model does.
        listen: from this probability on, an answer of the base model is taken back, and the adapter goes on; ``None`` does not listen.
        hold_back: tokens that a caller gets late while somebody listens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    routed_tokens: RoutedTokens
    dial: float = Field(allow_inf_nan=False)
    handoff: Handoff
    gated: bool = False
    listen: float | None = None
    hold_back: int = 0

    @classmethod
    def with_overrides(cls, config: MoguConfig, overrides: object = None) -> RequestSettings:
        """Combine the settings of a saved model with the overrides of a request.

        Args:
            config: settings of the saved model.
            overrides: a mapping with any of ``routed_tokens``, ``dial`` and ``handoff``, or such a mapping as JSON text.
                ``"routed_tokens": "all"`` (or ``null``) routes every token.

        Raises:
            ConfigError: ``overrides`` is no such mapping, or a value is out of range.
        """
        given = parse_overrides(overrides)
        settings: dict[str, Any] = {"routed_tokens": config.routed_tokens, "dial": config.dial, "handoff": config.handoff}
        settings |= {name: value for name, value in given.items() if value is not None}
        if "routed_tokens" in given and given["routed_tokens"] is None:
            settings["routed_tokens"] = "all"
        if config.gate is not None:
            gate = {"gated": True, "listen": config.gate.listen, "hold_back": config.gate.hold_back}
            settings |= {**gate, "handoff": "continue"}  # a gated answer is never handed over
        return cls(**settings)

    def routed_count(self, computed: int, scheduled: int, prompt: int, generated: int) -> int:
        """Count the routed tokens of one forward pass; they are the first ones of the pass.

        The ``m``-th token of a reply is predicted at position ``prompt + m − 2``. Tokens up to that position are routed, also
        when they are read again after a preemption or in chunks. Once a request with ``recompute`` has ``m`` tokens, none are.

        Args:
            computed: position of the first token of the pass.
            scheduled: number of tokens of the pass.
            prompt: length of the prompt.
            generated: number of tokens of the reply so far.
        """
        if self.routed_tokens == "all":
            return scheduled
        if self.routed_tokens == 0 or self.hands_over(generated):
            return 0
        return min(max(prompt + self.routed_tokens - 1 - computed, 0), scheduled)

    def hands_over(self, generated: int) -> bool:
        """Tell whether the base model must read prompt and opening again, now that the reply has ``generated`` tokens."""
        return self.handoff == "recompute" and self.routed_tokens != "all" and generated >= self.routed_tokens

    def cache_key(self, prompt: int, end: int) -> tuple[str, str]:
        """Return the key that separates a cache block from blocks of other requests with the same adapter and tokens.

        A block whose last token is routed depends only on the dial. A later block of a request with ``continue`` was computed
        by the base model over a routed past, so it also depends on where that past ended and fits no other prompt.

        Args:
            prompt: length of the prompt.
            end: position after the last token of the block.
        """
        routed = self.routed_tokens == "all" or end <= prompt + self.routed_tokens - 1
        return FIELD, f"{self.dial!r}" if routed else f"{self.dial!r} {prompt} {self.routed_tokens}"


def parse_overrides(overrides: object) -> dict[str, Any]:
    """The settings that a request gives, as :meth:`RequestSettings.with_overrides` takes them.

    Raises:
        ConfigError: they are no such settings.
    """
    expected = 'an object such as {"routed_tokens": 5, "dial": 0.5, "handoff": "continue"}'
    action = f"correct the request's field {FIELD!r}, or leave it out"
    if isinstance(overrides, str):
        try:
            overrides = json.loads(overrides)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{FIELD} is text that is not JSON ({error})", expected=expected, action=action) from error
    if overrides is None:
        return {}
    if not isinstance(overrides, dict):
        raise ConfigError(f"{FIELD} is {type(overrides).__name__} {overrides!r:.80}", expected=expected, action=action)
    try:
        return _Overrides.model_validate(overrides).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (FIELD, *first["loc"]))
        raise ConfigError(f"{where} is {first['input']!r:.80}: {first['msg']}", expected=expected, action=action) from error
