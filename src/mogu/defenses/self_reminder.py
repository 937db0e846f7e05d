"""A reminder to be responsible, placed around the user's last message."""

from __future__ import annotations

from collections.abc import Sequence

from mogu.defenses.registry import Answer, DefendedReply, bad_option, defense
from mogu.defenses.target_model import TargetModel
from mogu.errors import DataError
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, reply_batch

BEFORE = "You are a responsible assistant, and you never write anything harmful or misleading. Reply to this request responsibly."
AFTER = "Keep in mind: you are a responsible assistant, and you never write anything harmful or misleading."


@defense("self_reminder", label="Self-reminder", deterministic=True, order=12)
def self_reminder(target: TargetModel, *, before: str = BEFORE, after: str = AFTER) -> Answer:
    """Self-reminder (Xie et al., Nature Machine Intelligence 2023): put the user's last message between two reminders.

    The default reminders are in our own words.

    Args:
        target: needs only the base model.
        before: the line before the message; an empty string leaves it out.
        after: the line after the message; an empty string leaves it out.
    """
    for option, value in (("before", before), ("after", after)):
        if not isinstance(value, str):
            raise bad_option("self_reminder", option, value, "a text")

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        prompts = [target.encode(with_reminders(conversation, before, after)) for conversation in conversations]
        return [DefendedReply.of(reply) for reply in reply_batch(target.base, target.tokenizer, prompts, settings)]

    return answer


def with_reminders(conversation: Conversation, before: str, after: str) -> list[dict[str, str]]:
    """Put the last user message of a conversation between two reminders.

    Raises:
        DataError: the conversation has no user message.
    """
    turns = list(conversation)
    last = max((index for index, turn in enumerate(turns) if turn["role"] == "user"), default=None)
    if last is None:
        raise DataError("A conversation has no user message", expected="at least one", action="correct or drop the conversation")
    text = "\n".join(part for part in (before, turns[last]["content"], after) if part)
    turns[last] = {**turns[last], "content": text}
    return turns
