"""Plain supervised fine-tuning: train the model to answer benign requests and to refuse malicious ones."""

from __future__ import annotations

from collections.abc import Sequence

from mogu.defenses.registry import Answer, DefendedReply, defense
from mogu.defenses.target_model import TargetModel
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, reply_batch


@defense("sft", label="SFT", part="sft", deterministic=True, order=10)
def sft(target: TargetModel) -> Answer:
    """Answer with one LoRA, trained on MoGU's data with as many parameters as MoGU's two responders together (MoGU, section 4.1).

    Args:
        target: needs the trained part ``sft``, which :func:`mogu.training.train_baselines` writes.
    """
    tuned = target.with_adapter("sft")

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        prompts = [target.encode(conversation) for conversation in conversations]
        return [DefendedReply.of(reply) for reply in reply_batch(tuned, target.tokenizer, prompts, settings)]

    return answer
