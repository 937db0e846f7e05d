"""A classifier in front of the model: prompts that it finds malicious are refused, the others are answered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from mogu.analysis.detector import Detector
from mogu.data import user_text
from mogu.defenses.refuse_by_score import Scorer, refuse_by_score
from mogu.defenses.registry import Answer, bad_option, defense
from mogu.defenses.target_model import TargetModel
from mogu.errors import ConfigError
from mogu.hub import load_classifier
from mogu.inference.padding import padding_id
from mogu.inference.prompts import Conversation

# Beginnings of the labels that classifiers give to malicious prompts; "unharmful", "non-toxic" and "not_harmful" begin differently.
_MALICIOUS_PREFIXES = ("malicious", "unsafe", "harmful", "toxic", "jailbreak", "injection")


@defense("detect_inp", label="Detect-input", part="detector.json", deterministic=True, order=11)
def detect_inp(target: TargetModel, *, classifier: str | None = None, malicious_label: str | None = None, threshold: float = 0.5) -> Answer:
    """Classify the prompt and refuse it if it is malicious (MoGU, section 4.1).

    The default classifier is a logistic regression on the base model's hidden state at the last token of the whole prompt:
    the trained part ``detector.json``, which :func:`mogu.training.train_baselines` writes.

    Args:
        target: needs the trained part ``detector.json``, unless ``classifier`` is given.
        classifier: folder or hub id of a Hugging Face sequence classifier; it reads all user messages of a conversation.
        malicious_label: the classifier's label for malicious prompts. By default the one whose name begins with malicious,
            unsafe, harmful, toxic, jailbreak or injection, otherwise ``LABEL_1`` of two.
        threshold: prompts with this score or a higher one are refused, from 0 to 1.

    The details of each reply hold ``score``, the probability that the prompt is malicious.
    """
    if classifier is None and malicious_label is not None:
        raise bad_option("detect_inp", "malicious_label", malicious_label, "a classifier that has this label (classifier=...)")
    score = _detector_scorer(target) if classifier is None else _classifier_scorer(target, classifier, malicious_label)
    return refuse_by_score(target, score, threshold, defense="detect_inp")


def _detector_scorer(target: TargetModel) -> Scorer:
    detector = Detector.load(target.trained_part("detector.json"))
    pad = padding_id(target.tokenizer, target.base)

    def score(conversations: Sequence[Conversation]) -> list[float]:
        prompts = [target.encode(conversation) for conversation in conversations]
        return detector.scores(target.base, prompts, pad)

    return score


def _classifier_scorer(target: TargetModel, source: str, malicious_label: str | None) -> Scorer:
    model, tokenizer = load_classifier(source)
    model.to(target.base.device)
    target.register_model(f"classifier {source}", model)
    labels = {int(label_id): str(label) for label_id, label in model.config.id2label.items()}
    # A single label and labels that do not exclude each other are scored by a sigmoid each, exclusive labels by a softmax.
    independent = len(labels) == 1 or model.config.problem_type == "multi_label_classification"
    malicious_id = malicious_label_id(source, labels, malicious_label)
    max_length = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length)

    @torch.no_grad()
    def score(conversations: Sequence[Conversation]) -> list[float]:
        texts = [user_text(conversation) for conversation in conversations]
        batch: Any = tokenizer(texts, return_tensors="pt", padding=len(texts) > 1, truncation=True, max_length=max_length)
        logits = model(**batch.to(model.device)).logits.double()
        probabilities = logits.sigmoid() if independent else logits.softmax(-1)
        return [float(probability) for probability in probabilities[:, malicious_id]]

    return score


def malicious_label_id(source: str, labels: dict[int, str], malicious_label: str | None) -> int:
    """Find the id of a classifier's label for malicious prompts.

    Args:
        source: the classifier's name, for error messages.
        labels: its labels by id.
        malicious_label: the name of the label; ``None`` to recognize it by its name.

    Raises:
        ConfigError: there is no such label, or none or several are recognized.
    """
    if malicious_label is not None:
        candidates = [label_id for label_id, label in labels.items() if label.lower() == malicious_label.lower()]
    elif len(labels) == 1:
        candidates = list(labels)
    else:
        candidates = [label_id for label_id, label in labels.items() if re.match("|".join(_MALICIOUS_PREFIXES), label.lower())]
        if not candidates and sorted(labels.values()) == ["LABEL_0", "LABEL_1"]:
            candidates = [label_id for label_id, label in labels.items() if label == "LABEL_1"]
    if len(candidates) != 1:
        raise ConfigError(
            f"The classifier {source} has the labels {', '.join(labels.values())}"
            + (f", but no {malicious_label}" if malicious_label is not None else f"; {len(candidates)} of them could mean malicious"),
            expected="exactly one label for malicious prompts",
            action="name it with malicious_label=...",
        )
    return candidates[0]
