"""No defense: what every other one is compared with."""

from __future__ import annotations

from collections.abc import Sequence

from mogu.defenses.registry import Answer, DefendedReply, defense
from mogu.defenses.subject import Subject
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, reply_batch


@defense("none", label="no defense", deterministic=True)
def none(subject: Subject) -> Answer:
    """The base model's own reply."""

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        prompts = [subject.encode(conversation) for conversation in conversations]
        return [DefendedReply.of(reply) for reply in reply_batch(subject.base, subject.tokenizer, prompts, settings)]

    return answer
