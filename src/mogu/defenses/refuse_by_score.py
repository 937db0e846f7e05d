"""What detectors in front of a model do: refuse by a fixed sentence where a score is high, and let the base model answer elsewhere.

Knows scores and a threshold; does not know how a score comes about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mogu.defenses.registry import Answer, DefendedReply, bad_option, refused
from mogu.defenses.target_model import TargetModel
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, reply_batch

Scorer = Callable[[Sequence[Conversation]], list[float]]
"""How malicious each conversation is, from 0 to 1."""


def refuse_by_score(target: TargetModel, score: Scorer, threshold: float, *, defense: str) -> Answer:
    """Make the answer of a defense that refuses conversations with a score of ``threshold`` or more.

    Args:
        target: the model whose base answers the others.
        score: scores conversations.
        threshold: from 0 to 1.
        defense: its name, for errors.

    Raises:
        ConfigError: the threshold is no number from 0 to 1.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise bad_option(defense, "threshold", threshold, "a number from 0 to 1")

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        scores = score(conversations)
        benign = [index for index, prompt_score in enumerate(scores) if prompt_score < threshold]
        prompts = [target.encode(conversations[index]) for index in benign]
        replies = reply_batch(target.base, target.tokenizer, prompts, settings) if prompts else []
        answered = dict(zip(benign, replies, strict=True))
        return [
            DefendedReply.of(answered[index], score=prompt_score) if index in answered else refused(score=prompt_score)
            for index, prompt_score in enumerate(scores)
        ]

    return answer
