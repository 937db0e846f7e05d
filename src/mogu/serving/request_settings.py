"""The routed opening of one request: how many tokens, at what dial, and how the base model goes on.

Knows numbers and positions; knows nothing of vLLM, tensors or files.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mogu.errors import ConfigError
from mogu.modeling.config import Handoff, MoguConfig, RoutedTokens

# Under this name an API request carries its wishes, and inside vLLM a request carries its settings (in `SamplingParams.extra_args`).
FIELD = "mogu"


class _Wishes(BaseModel):
    """What one request may ask for; what it leaves out is the saved model's."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    routed_tokens: RoutedTokens | None = None
    dial: float | None = Field(default=None, allow_inf_nan=False)
    handoff: Handoff | None = None


class RoutedOpening(BaseModel):
    """Settings of one routed request, all of them known.

    Args:
        routed_tokens: ``m``, how many tokens of the answer are decoded with routing; ``"all"`` is every token.
        dial: ``δ``, added to the unwill logit and subtracted from the glad logit.
        handoff: ``"continue"`` drops the adapter after ``m`` tokens and keeps the cache; ``"recompute"`` has the base model
            read prompt and opening anew, as published.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    routed_tokens: RoutedTokens
    dial: float = Field(allow_inf_nan=False)
    handoff: Handoff

    @classmethod
    def of(cls, config: MoguConfig, asked: object = None) -> RoutedOpening:
        """The settings of a saved model, with what a request asks for in their place.

        Args:
            config: the saved model's.
            asked: a mapping with any of ``routed_tokens``, ``dial`` and ``handoff``, or such a mapping as JSON text.
                ``"routed_tokens": "all"`` (or ``null``) routes every token.

        Raises:
            ConfigError: it is no such mapping, or a value is out of its range.
        """
        wishes = _wishes(asked)
        settings: dict[str, Any] = {"routed_tokens": config.routed_tokens, "dial": config.dial, "handoff": config.handoff}
        settings |= {name: value for name, value in wishes.items() if value is not None}
        if "routed_tokens" in wishes and wishes["routed_tokens"] is None:
            settings["routed_tokens"] = "all"
        return cls(**settings)

    def routes(self, computed: int, scheduled: int, prompt: int, generated: int) -> int:
        """How many of the tokens of one forward pass are routed: the first ones, by their positions.

        The ``m``-th token of an answer is predicted at position ``prompt + m − 2``: up to there tokens are routed, also when
        they are read again after a preemption or in chunks. Once a request with ``recompute`` has its ``m`` tokens, none is.

        Args:
            computed: position of the pass's first token.
            scheduled: tokens of the pass.
            prompt: length of the prompt.
            generated: tokens that the answer has so far.
        """
        if self.routed_tokens == "all":
            return scheduled
        if self.routed_tokens == 0 or self.handed_over(generated):
            return 0
        return min(max(prompt + self.routed_tokens - 1 - computed, 0), scheduled)

    def handed_over(self, generated: int) -> bool:
        """Whether the base model is to read prompt and opening anew, now that the answer has so many tokens."""
        return self.handoff == "recompute" and self.routed_tokens != "all" and generated >= self.routed_tokens

    def cache_key(self, prompt: int, end: int) -> tuple[str, str]:
        """What sets a block of keys and values apart from those of other requests with the same adapter and tokens.

        A block whose last token is routed depends on the dial alone. A later block of a request with ``continue`` was computed
        by the base model over a routed past, and depends on where that past ended: it fits no other prompt.

        Args:
            prompt: length of the prompt.
            end: position behind the block's last token.
        """
        routed = self.routed_tokens == "all" or end <= prompt + self.routed_tokens - 1
        return FIELD, f"{self.dial!r}" if routed else f"{self.dial!r} {prompt} {self.routed_tokens}"


def _wishes(asked: object) -> dict[str, Any]:
    expected = 'an object such as {"routed_tokens": 5, "dial": 0.5, "handoff": "continue"}'
    action = f"correct the request's field {FIELD!r}, or leave it out"
    if isinstance(asked, str):
        try:
            asked = json.loads(asked)
        except ValueError as error:
            raise ConfigError(f"{FIELD} is text that is no JSON ({error})", expected=expected, action=action) from error
    if asked is None:
        return {}
    if not isinstance(asked, dict):
        raise ConfigError(f"{FIELD} is {type(asked).__name__} {asked!r:.80}", expected=expected, action=action)
    try:
        return _Wishes.model_validate(asked).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (FIELD, *first["loc"]))
        raise ConfigError(f"{where} is {first['input']!r:.80}: {first['msg']}", expected=expected, action=action) from error
