"""Base model and safety expert combined over the first tokens of a reply; then the base model continues alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from mogu.defenses.registry import Answer, DefendedReply, bad_option, defense
from mogu.defenses.target_model import TargetModel
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, reply_batch
from mogu.transformers_compat import CACHE, cache_of

MIN_PROBABILITY = 1e-8
"""``ε``: replaces probabilities that the combination makes negative or smaller, before normalization."""


@defense("safe_decoding", label="SafeDecoding", part="expert", deterministic=True, order=16)
def safe_decoding(
    target: TargetModel, *, first_m: int = 2, alpha: float = 3.0, top_k: int | None = 10, num_common_tokens: int = 5
) -> Answer:
    """SafeDecoding (Xu et al., ACL 2024): raise the probability of tokens that an expert in refusing prefers to the base model's.

    Args:
        target: needs the trained part ``expert``, which :func:`mogu.training.train_baselines` writes.
        first_m: number of tokens at the start of a reply that are decoded this way.
        alpha: ``α``, how far to move from the base model toward the expert, and beyond it if above 1.
        top_k: see :func:`combined_log_probabilities`.
        num_common_tokens: see :func:`combined_log_probabilities`.
    """
    counts: dict[str, Any] = {"first_m": first_m, "num_common_tokens": num_common_tokens} | ({} if top_k is None else {"top_k": top_k})
    for option, value in counts.items():
        minimum = 0 if option == "first_m" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            or_none = ", or None" if option == "top_k" else ""
            raise bad_option("safe_decoding", option, value, f"a whole number of at least {minimum}{or_none}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < float("inf"):
        raise bad_option("safe_decoding", "alpha", alpha, "a number of at least 0")
    expert = target.with_adapter("expert").get_base_model()  # its layers contain the LoRA

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        prompts = [target.encode(conversation) for conversation in conversations]
        steering = ExpertSteering(expert, [len(prompt) for prompt in prompts], first_m, alpha, top_k, num_common_tokens)
        replies = reply_batch(target.base, target.tokenizer, prompts, settings, logits_processor=LogitsProcessorList([steering]))
        return [DefendedReply.of(reply) for reply in replies]

    return answer


class ExpertSteering(LogitsProcessor):
    """Replace the base model's logits by the combined log-probabilities for the first tokens of one batch of replies.

    The expert reads each prompt once and keeps its own cache, which its own ``generate`` fills, so padding and positions are
    handled as for the base model. Temperature and top-p are applied afterward, to the combination.

    Args:
        expert: the expert, a causal language model.
        lengths: number of tokens of each prompt, without left padding.
        first_m: number of tokens to steer.
        alpha: see :func:`combined_log_probabilities`.
        top_k: see :func:`combined_log_probabilities`.
        num_common_tokens: see :func:`combined_log_probabilities`.
    """

    def __init__(self, expert: Any, lengths: Sequence[int], first_m: int, alpha: float, top_k: int | None, num_common_tokens: int) -> None:
        self.expert, self.lengths = expert, lengths
        self.first_m, self.alpha, self.top_k, self.num_common_tokens = first_m, alpha, top_k, num_common_tokens
        self.steered = 0
        self.cache: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return combined log-probabilities ``[batch, vocabulary]`` for the first tokens, afterward the scores unchanged."""
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
            max_new_tokens=1,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=0,  # never written: the one generated token is discarded
            return_dict_in_generate=True,
            output_logits=True,
            **{CACHE: self.cache},
        )
        self.cache = cache_of(output)
        expert = output.logits[0].to(scores)
        return combined_log_probabilities(scores, expert, self.alpha, self.top_k, self.num_common_tokens)


def combined_log_probabilities(base: Tensor, expert: Tensor, alpha: float, top_k: int | None, num_common_tokens: int) -> Tensor:
    """Compute ``P(x) ∝ max(p(x) + α·(p'(x) − p(x)), ε)`` over the tokens that both models rank high (SafeDecoding, section 4.2).

    These tokens are the intersection of the ``k`` most likely tokens of the base model and of the expert, for the smallest
    ``k`` that gives at least ``num_common_tokens``, but at most ``top_k``. If the intersection is still empty at ``top_k``,
    ``k`` grows until it is not, since some token must be written.

    Args:
        base: the base model's logits ``[batch, vocabulary]``; ``p`` is their softmax.
        expert: the expert's logits ``[batch, vocabulary]``; ``p'`` is their softmax.
        alpha: ``α``; 0 is the base model, 1 the expert, and more exaggerates the difference.
        top_k: the largest ``k``; ``None`` sets no limit, as in the published code.
        num_common_tokens: size that the intersection should reach.

    Returns:
        ``log P`` of shape ``[batch, vocabulary]``, ``-inf`` outside the intersection.
    """
    common_from = torch.maximum(_ranks(base), _ranks(expert))  # the smallest k at which a token is in the intersection
    sorted_k = common_from.sort(dim=-1).values
    k = sorted_k[:, min(num_common_tokens, sorted_k.shape[1]) - 1]
    if top_k is not None:
        k = torch.minimum(k, sorted_k[:, 0].clamp(min=top_k))
    base_probabilities, expert_probabilities = base.softmax(-1), expert.softmax(-1)
    combined = (base_probabilities + alpha * (expert_probabilities - base_probabilities)).clamp(min=MIN_PROBABILITY)
    return combined.log().masked_fill(common_from > k.unsqueeze(1), -torch.inf).log_softmax(-1)


def _ranks(logits: Tensor) -> Tensor:
    """Rank the tokens of each row ``[batch, vocabulary]``: the most likely has rank 1, and ties follow the order of ids."""
    order = logits.sort(dim=-1, descending=True, stable=True).indices
    ranks = torch.arange(1, logits.shape[-1] + 1, device=logits.device).expand_as(order)
    return torch.zeros_like(order).scatter(-1, order, ranks)
