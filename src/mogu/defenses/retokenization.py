"""The prompt cut into smaller pieces than the model is used to, which breaks suffixes that were searched for token by token."""

from __future__ import annotations

import random
from collections.abc import Sequence

from mogu.defenses.bpe_dropout import BpeDropout
from mogu.defenses.registry import Answer, DefendedReply, bad_option, defense
from mogu.defenses.subject import Subject
from mogu.inference.prompts import Conversation, render_prompt
from mogu.inference.replies import ReplySettings, reply_batch


@defense("retokenization", label="Retokenization")
def retokenization(subject: Subject, *, dropout: float = 0.2) -> Answer:
    """Retokenization (Jain et al., 2023): BPE dropout on the prompt's ordinary text; special tokens stay as they are.

    Which merges are dropped depends on the prompt and on the settings' seed (0 where there is none), not on its place in a batch.

    Args:
        subject: a base model whose tokenizer is BPE.
        dropout: probability that a merge is dropped.
    """
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
        raise bad_option("retokenization", "dropout", dropout, "a number from 0 to 1")
    pieces = BpeDropout(subject.tokenizer)

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        texts = [render_prompt(subject.tokenizer, subject.conversation(conversation)) for conversation in conversations]
        prompts = [pieces.encode(text, dropout, random.Random(f"{settings.seed or 0}:{text}")) for text in texts]
        return [DefendedReply.of(reply) for reply in reply_batch(subject.base, subject.tokenizer, prompts, settings)]

    return answer
