"""No defense: the baseline that every defense is compared with."""

from __future__ import annotations

from collections.abc import Sequence

from mogu.defenses.registry import Answer, DefendedReply, defense
from mogu.defenses.target_model import TargetModel
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, reply_batch


@defense("none", label="no defense", deterministic=True, order=0)
def none(target: TargetModel) -> Answer:
    """Give the base model's own reply."""

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        prompts = [target.encode(conversation) for conversation in conversations]
        return [DefendedReply.of(reply) for reply in reply_batch(target.base, target.tokenizer, prompts, settings)]

    return answer
