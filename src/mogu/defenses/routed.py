"""MoGU as a defense: the hardened model answers as it was saved, or with other routing settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mogu.defenses.registry import Answer, DefendedReply, defense
from mogu.defenses.target_model import TargetModel
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, reply_batch
from mogu.modeling.config import Handoff, RoutedTokens


@defense("mogu", label="MoGU", deterministic=True, order=90, routed=True)
def mogu(
    target: TargetModel,
    *,
    dial: float | None = None,
    routed_tokens: RoutedTokens | None = None,
    handoff: Handoff | None = None,
    answer_marker: str | None = None,
) -> Answer:
    """MoGU (Du et al., NeurIPS 2024): route the first tokens of a reply between two responders, then let the base model continue.

    Args:
        target: a saved MoGU model.
        dial: logit shift ``δ``; by default the model's.
        routed_tokens: number of tokens of a reply that are routed, or ``"all"``; by default the model's.
        handoff: how the base model takes over; by default the model's setting.
        answer_marker: text that ends a reasoning block, after which the same number of tokens is routed again; ``""`` for
            none; by default the model's.

    The details of each reply hold ``score``, the malicious score of the prompt, and, but for models with a gate, ``unwill`` and
    ``glad``, the routing weights in each routed layer.
    """
    model = target.require_mogu()
    config = model.mogu_config
    reply_dial = config.dial if dial is None else dial
    routing: dict[str, Any] = {
        "routed_tokens": config.routed_tokens if routed_tokens is None else routed_tokens,
        "handoff": handoff or config.handoff,
        "answer_marker": config.answer_marker if answer_marker is None else answer_marker or None,
    }

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        prompts = [target.encode(conversation) for conversation in conversations]
        with model.routing("on", dial=reply_dial):
            replies = reply_batch(model, target.tokenizer, prompts, settings, **routing)
            scores, weights = model.prompt_scores, model.prompt_weights
        if scores is None:  # no token was routed
            return [DefendedReply.of(reply) for reply in replies]
        if weights is None:  # one gate for all layers
            return [DefendedReply.of(reply, score=score) for reply, score in zip(replies, scores.tolist(), strict=True)]
        unwill, glad = weights["unwill"].t().tolist(), weights["glad"].t().tolist()
        return [
            DefendedReply.of(reply, score=score, unwill=unwill[row], glad=glad[row])
            for row, (reply, score) in enumerate(zip(replies, scores.tolist(), strict=True))
        ]

    return answer
