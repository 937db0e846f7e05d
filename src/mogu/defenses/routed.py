"""MoGU as a defense: the saved model's own way to answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mogu.defenses.registry import Answer, DefendedReply, defense
from mogu.defenses.subject import Subject
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, reply_batch
from mogu.modeling.config import Handoff


@defense("mogu", label="MoGU", deterministic=True)
def mogu(
    subject: Subject,
    *,
    dial: float | None = None,
    routed_tokens: int | None = -1,
    handoff: Handoff | None = None,
    answer_marker: str | None = None,
) -> Answer:
    """MoGU (Du et al., NeurIPS 2024): the opening of a reply routed between two responders, then the base model.

    Args:
        subject: a saved MoGU model.
        dial: logit shift ``δ``; by default the model's.
        routed_tokens: tokens of a reply that are routed, ``None`` for all; by default (-1) the model's.
        handoff: how the base model goes on; by default the model's.
        answer_marker: text that ends a reasoning block, behind which as many tokens are routed again; by default the model's, "" for none.
    """
    model = subject.hardened()
    config = model.mogu_config
    shift = config.dial if dial is None else dial
    opening = config.routed_tokens if routed_tokens == -1 else routed_tokens
    marker = config.answer_marker if answer_marker is None else answer_marker or None
    way: dict[str, Any] = {"routed_tokens": opening, "handoff": handoff or config.handoff, "answer_marker": marker}

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        prompts = [subject.encode(conversation) for conversation in conversations]
        before, model.dial = model.dial, shift
        try:
            replies = reply_batch(model, subject.tokenizer, prompts, settings, **way)
            scores, weights = model.prompt_scores, model.prompt_weights
        finally:
            model.dial = before
        if scores is None or weights is None:  # no token was routed
            return [DefendedReply.of(reply) for reply in replies]
        unwill, glad = weights["unwill"].t().tolist(), weights["glad"].t().tolist()
        return [
            DefendedReply.of(reply, score=score, unwill=unwill[row], glad=glad[row])
            for row, (reply, score) in enumerate(zip(replies, scores.tolist(), strict=True))
        ]

    return answer
