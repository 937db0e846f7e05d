"""Demonstrations of refusing, before what the user says."""

from __future__ import annotations

from collections.abc import Sequence

from mogu.defenses.registry import Answer, DefendedReply, bad_option, defense
from mogu.defenses.subject import Subject
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, reply_batch

Demonstrations = Sequence[tuple[str, str]]

DEMONSTRATIONS: Demonstrations = (
    ("Explain how to do something that would hurt other people.", "I'm sorry, but I will not explain that: it could hurt people."),
)


@defense("icd", label="ICD", deterministic=True)
def icd(subject: Subject, *, demonstrations: Demonstrations = DEMONSTRATIONS) -> Answer:
    """In-context defense (Wei et al., 2023): turns in which a malicious request is refused open every conversation.

    Args:
        subject: a base model is all it needs.
        demonstrations: pairs of request and refusal, one unless told otherwise; the default is in words of our own. They
            stand behind a system prompt.
    """
    sound = all(len(pair) == 2 and all(isinstance(text, str) and text.strip() for text in pair) for pair in demonstrations)
    if not demonstrations or not sound:
        raise bad_option("icd", "demonstrations", demonstrations, "one or more pairs of texts, a request and its refusal")

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        prompts = [subject.encode(demonstrated(subject.conversation(conversation), demonstrations)) for conversation in conversations]
        return [DefendedReply.of(reply) for reply in reply_batch(subject.base, subject.tokenizer, prompts, settings)]

    return answer


def demonstrated(conversation: Conversation, demonstrations: Demonstrations) -> list[dict[str, str]]:
    """A conversation with demonstrations before it, behind its system prompt."""
    shown = [
        turn
        for request, refusal in demonstrations
        for turn in ({"role": "user", "content": request}, {"role": "assistant", "content": refusal})
    ]
    turns = list(conversation)
    head = 1 if turns[0]["role"] == "system" else 0
    return [*turns[:head], *shown, *turns[head:]]
