"""A custom defense in one file: refuse prompts that read like noise, as those with an optimized adversarial suffix do.

Compare it with the defenses of MoGU:

    mogu compare safer-model --plugin examples/custom_defense.py --defenses none,perplexity_filter,mogu
"""

from collections.abc import Sequence

import torch

from mogu.defenses import Answer, DefendedReply, TargetModel, bad_option, defense, refused
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, reply_batch


@defense("perplexity_filter", label="Perplexity filter", deterministic=True)
def perplexity_filter(target: TargetModel, *, max_perplexity: float = 1000.0) -> Answer:
    """Refuse prompts with a high perplexity under the base model (Alon and Kamfonas, 2023; Jain et al., 2023).

    Args:
        target: needs only the base model.
        max_perplexity: the highest perplexity of the user's text that is answered.

    The details of each reply hold ``perplexity``.
    """
    if not max_perplexity >= 1:
        raise bad_option("perplexity_filter", "max_perplexity", max_perplexity, "a number of at least 1")

    @torch.no_grad()
    def perplexity(conversation: Conversation) -> float:
        text = "\n".join(turn["content"] for turn in conversation if turn["role"] == "user")
        tokens = target.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(target.base.device)
        if tokens.shape[1] < 2:  # no token is predicted from another
            return 1.0
        return float(target.base(input_ids=tokens, labels=tokens).loss.exp())

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        perplexities = [perplexity(conversation) for conversation in conversations]
        prompts = [
            target.encode(conversation) for conversation, value in zip(conversations, perplexities, strict=True) if value <= max_perplexity
        ]
        replies = iter(reply_batch(target.base, target.tokenizer, prompts, settings) if prompts else [])
        return [
            DefendedReply.of(next(replies), perplexity=value) if value <= max_perplexity else refused(perplexity=value)
            for value in perplexities
        ]

    return answer
