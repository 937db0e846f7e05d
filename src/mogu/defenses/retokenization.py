"""The prompt split into smaller tokens than usual, which breaks adversarial suffixes that were optimized token by token."""

from __future__ import annotations

import random
from collections.abc import Sequence

from mogu.defenses.bpe_dropout import BpeDropout
from mogu.defenses.registry import Answer, DefendedReply, bad_option, defense
from mogu.defenses.target_model import TargetModel
from mogu.inference.prompts import Conversation, render_prompt
from mogu.inference.replies import ReplySettings, reply_batch


@defense("retokenization", label="Retokenization", order=14)
def retokenization(target: TargetModel, *, dropout: float = 0.2) -> Answer:
    """Retokenization (Jain et al., 2023): apply BPE dropout to the text of the prompt; special tokens stay whole.

    Which merges are dropped depends on the prompt and the seed of the reply settings (0 if it is ``None``), not on the
    position of the prompt in a batch.

    Args:
        target: a base model with a BPE tokenizer.
        dropout: probability that a merge is dropped, from 0 to 1.
    """
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
        raise bad_option("retokenization", "dropout", dropout, "a number from 0 to 1")
    bpe = BpeDropout(target.tokenizer)

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        texts = [render_prompt(target.tokenizer, target.with_system_prompt(conversation)) for conversation in conversations]
        prompts = [bpe.encode(text, dropout, random.Random(f"{settings.seed or 0}:{text}")) for text in texts]
        return [DefendedReply.of(reply) for reply in reply_batch(target.base, target.tokenizer, prompts, settings)]

    return answer
