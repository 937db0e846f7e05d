"""A reminder of being responsible, around what the user says."""

from __future__ import annotations

from collections.abc import Sequence

from mogu.defenses.registry import Answer, DefendedReply, bad_option, defense
from mogu.defenses.subject import Subject
from mogu.errors import DataError
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, reply_batch

BEFORE = "You are a responsible assistant, and you never write anything harmful or misleading. Reply to this request responsibly."
AFTER = "Keep in mind: you are a responsible assistant, and you never write anything harmful or misleading."


@defense("self_reminder", label="Self-reminder", deterministic=True)
def self_reminder(subject: Subject, *, before: str = BEFORE, after: str = AFTER) -> Answer:
    """Self-reminder (Xie et al., Nature Machine Intelligence 2023): the user's last message between two reminders, in words of our own.

    Args:
        subject: a base model is all it needs.
        before: stands before the message, on a line of its own; empty for none.
        after: stands behind it, likewise.
    """
    for option, value in (("before", before), ("after", after)):
        if not isinstance(value, str):
            raise bad_option("self_reminder", option, value, "a text")

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        prompts = [subject.encode(reminded(conversation, before, after)) for conversation in conversations]
        return [DefendedReply.of(reply) for reply in reply_batch(subject.base, subject.tokenizer, prompts, settings)]

    return answer


def reminded(conversation: Conversation, before: str, after: str) -> list[dict[str, str]]:
    """A conversation whose last message of the user stands between two reminders.

    Raises:
        DataError: the user says nothing in it.
    """
    turns = list(conversation)
    last = max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=None)
    if last is None:
        raise DataError("A conversation has no message of the user", expected="one at least", action="correct or drop the conversation")
    text = "\n".join(part for part in (before, turns[last]["content"], after) if part)
    turns[last] = {**turns[last], "content": text}
    return turns
