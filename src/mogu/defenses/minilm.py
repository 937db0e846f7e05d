"""A detector in front of the model that owes it nothing: MiniLM embeds the prompt, and a linear head says whether it is malicious.

It asks what the base model's own hidden state is worth: ``detect_inp`` is the same regression on that state.
"""

from __future__ import annotations

from collections.abc import Sequence

from mogu.analysis.minilm import MiniLM, MinilmDetector, require_onnxruntime
from mogu.data import user_text
from mogu.defenses.refuse_by_score import refuse_by_score
from mogu.defenses.registry import Answer, defense
from mogu.defenses.target_model import TargetModel
from mogu.inference.prompts import Conversation


@defense("minilm", label="MiniLM + linear head", part="minilm.json", deterministic=True, order=11, check=require_onnxruntime)
def minilm(target: TargetModel, *, threshold: float = 0.5) -> Answer:
    """Classify the prompt by its embedding, of all-MiniLM-L6-v2 (Wang et al., 2020), and refuse it if it is malicious.

    The classifier is a logistic regression, the trained part ``minilm.json``, which :func:`mogu.training.train_baselines` writes. It
    reads all user messages of a conversation, up to 256 tokens. MiniLM runs on the CPU and comes with the extra ``minilm``.

    Args:
        target: needs the trained part ``minilm.json``.
        threshold: prompts with this score or a higher one are refused, from 0 to 1.

    The details of each reply hold ``score``, the probability that the prompt is malicious.
    """
    detector = MinilmDetector.load(target.trained_part("minilm.json"))
    embedder = MiniLM.load()
    target.register_model("MiniLM", embedder)

    def score(conversations: Sequence[Conversation]) -> list[float]:
        return detector.scores(embedder, [user_text(conversation) for conversation in conversations])

    return refuse_by_score(target, score, threshold, defense="minilm")
