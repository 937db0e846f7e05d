"""Base model and safety expert combined over the first tokens of a reply; then the base model goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from mogu.defenses.registry import Answer, DefendedReply, bad_option, defense
from mogu.defenses.subject import Subject
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, reply_batch

TINY = 1e-8
"""The probability of a token that the combination would make less than nothing, before they are normalized."""


@defense("safe_decoding", label="SafeDecoding", part="expert", deterministic=True)
def safe_decoding(subject: Subject, *, first_m: int = 2, alpha: float = 3.0, top_k: int | None = 10, num_common_tokens: int = 5) -> Answer:
    """SafeDecoding (Xu et al., ACL 2024): what an expert in refusing makes likelier than the base model does is made likelier still.

    Args:
        subject: needs the trained part ``expert``; :func:`mogu.training.train_baselines` makes it.
        first_m: tokens of a reply that are decoded so.
        alpha: how far beyond the base model, in the expert's direction.
        top_k: see :func:`combined_log_probabilities`.
        num_common_tokens: likewise.
    """
    counts: dict[str, Any] = {"first_m": first_m, "num_common_tokens": num_common_tokens} | ({} if top_k is None else {"top_k": top_k})
    for option, value in counts.items():
        least = 0 if option == "first_m" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise bad_option("safe_decoding", option, value, f"a whole number from {least}" + (", or None" if option == "top_k" else ""))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < float("inf"):
        raise bad_option("safe_decoding", "alpha", alpha, "a number from 0")
    expert = subject.adapted("expert").get_base_model()  # the LoRA is inside its layers

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        prompts = [subject.encode(conversation) for conversation in conversations]
        steering = ExpertSteering(expert, [len(prompt) for prompt in prompts], first_m, alpha, top_k, num_common_tokens)
        replies = reply_batch(subject.base, subject.tokenizer, prompts, settings, logits_processor=LogitsProcessorList([steering]))
        return [DefendedReply.of(reply) for reply in replies]

    return answer


class ExpertSteering(LogitsProcessor):
    """Puts the combined log-probabilities in the place of the base model's logits, for the first tokens of one batch of replies.

    The expert reads each prompt once and keeps a cache of its own, filled by its own ``generate``, so that padding and
    positions are as right as they are for the base model. Temperature and nucleus come after, on the combination.

    Args:
        expert: the expert, a causal language model.
        lengths: tokens of each prompt, without the padding on its left.
        first_m: tokens to steer.
        alpha: see :func:`combined_log_probabilities`; so are the others.
    """

    def __init__(self, expert: Any, lengths: Sequence[int], first_m: int, alpha: float, top_k: int | None, num_common_tokens: int) -> None:
        self.expert, self.lengths = expert, lengths
        self.first_m, self.alpha, self.top_k, self.num_common_tokens = first_m, alpha, top_k, num_common_tokens
        self.steered = 0
        self.cache: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Combined log-probabilities ``[batch, vocabulary]`` for the first tokens; then the scores as they are."""
        if self.steered == self.first_m:
            self.cache = None
            return scores
        tokens = input_ids.shape[1]
        starts = torch.tensor([tokens - self.steered - length for length in self.lengths], device=input_ids.device)
        mask = (torch.arange(tokens, device=input_ids.device) >= starts.unsqueeze(1)).long()
        self.steered += 1
        output = self.expert.generate(
            input_ids,
            attention_mask=mask,
            past_key_values=self.cache,
            max_new_tokens=1,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=0,  # none is written: there is one token, and it is not used
            return_dict_in_generate=True,
            output_logits=True,
        )
        self.cache = output.past_key_values
        expert = output.logits[0].to(scores)
        return combined_log_probabilities(scores, expert, self.alpha, self.top_k, self.num_common_tokens)


def combined_log_probabilities(base: Tensor, expert: Tensor, alpha: float, top_k: int | None, num_common_tokens: int) -> Tensor:
    """``P(x) ∝ max(p(x) + α·(p'(x) − p(x)), ε)`` over the tokens that both models rank high (SafeDecoding, section 4.2).

    Those are what the ``k`` likeliest tokens of the base model and of the expert have in common, for the smallest ``k``
    with at least ``num_common_tokens`` in common, or ``top_k`` where that is less. Where they have nothing at all in
    common by then, ``k`` grows until they have: there must be a token to write.

    Args:
        base: logits ``[batch, vocabulary]``, of which ``p`` is the softmax.
        expert: likewise, for ``p'``.
        alpha: ``α``; 0 is the base model, 1 the expert, more exaggerates the difference.
        top_k: the largest ``k``; ``None`` sets no limit, as the published code does.
        num_common_tokens: tokens to have in common.

    Returns:
        ``log P [batch, vocabulary]``, ``-inf`` outside the common tokens.
    """
    needed = torch.maximum(_ranks(base), _ranks(expert))  # the smallest k for which a token is common
    sizes = needed.sort(dim=-1).values
    k = sizes[:, min(num_common_tokens, sizes.shape[1]) - 1]
    if top_k is not None:
        k = torch.minimum(k, sizes[:, 0].clamp(min=top_k))
    before, after = base.softmax(-1), expert.softmax(-1)
    combined = (before + alpha * (after - before)).clamp(min=TINY)
    return combined.log().masked_fill(needed > k.unsqueeze(1), -torch.inf).log_softmax(-1)


def _ranks(logits: Tensor) -> Tensor:
    """The place of each token among all, the likeliest being 1; equals in the order of their ids."""
    order = logits.sort(dim=-1, descending=True, stable=True).indices
    places = torch.arange(1, logits.shape[-1] + 1, device=logits.device).expand_as(order)
    return torch.zeros_like(order).scatter(-1, order, places)
