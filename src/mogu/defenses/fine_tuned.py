"""Plain supervised fine-tuning, the defense that needs no idea: answer benign requests, refuse malicious ones."""

from __future__ import annotations

from collections.abc import Sequence

from mogu.defenses.registry import Answer, DefendedReply, defense
from mogu.defenses.subject import Subject
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, reply_batch


@defense("sft", label="SFT", part="sft", deterministic=True)
def sft(subject: Subject) -> Answer:
    """The base model with one LoRA, trained on MoGU's data with as many parameters as both its responders (MoGU, section 4.1).

    Args:
        subject: needs the trained part ``sft``; :func:`mogu.training.train_baselines` makes it.
    """
    tuned = subject.adapted("sft")

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        prompts = [subject.encode(conversation) for conversation in conversations]
        return [DefendedReply.of(reply) for reply in reply_batch(tuned, subject.tokenizer, prompts, settings)]

    return answer
