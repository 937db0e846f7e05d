"""MoGU's routers as a classifier in front of the base model: what they find malicious is refused, the rest the base model answers.

It asks whether the responders are needed at all: the score alone is a detector, and a fixed refusal can do the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from mogu.defenses.refuse_by_score import refuse_by_score
from mogu.defenses.registry import Answer, defense
from mogu.defenses.target_model import TargetModel
from mogu.inference.prompts import Conversation


@defense("mogu_score", label="MoGU as classifier", deterministic=True, order=19, routed=True)
def mogu_score(target: TargetModel, *, threshold: float = 0.5) -> Answer:
    """Refuse a prompt by a fixed sentence if its malicious score is high, and let the base model answer it otherwise.

    Args:
        target: a saved MoGU model.
        threshold: prompts with this score or a higher one are refused, from 0 to 1; at 0.5 unwill outweighs glad.

    The details of each reply hold ``score``, the malicious score of the prompt.
    """
    model = target.require_mogu("mogu_score")

    def score(conversations: Sequence[Conversation]) -> list[float]:
        prompts = [target.with_system_prompt(conversation) for conversation in conversations]
        scores: list[float] = model.score(prompts, batch_size=len(prompts)).tolist()
        return scores

    return refuse_by_score(target, score, threshold, defense="mogu_score")
