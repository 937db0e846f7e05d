"""A classifier in front of the model: prompts that it calls malicious are refused, the others answered."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mogu.analysis.detector import Detector
from mogu.defenses.registry import Answer, DefendedReply, bad_option, defense, refused
from mogu.defenses.subject import Subject
from mogu.errors import ConfigError
from mogu.hub import load_classifier
from mogu.inference.padding import padding_id
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, reply_batch

# How the labels begin that classifiers give to malicious prompts. "unharmful", "non-toxic" and "not_harmful" begin otherwise.
_MALICIOUS = ("malicious", "unsafe", "harmful", "toxic", "jailbreak", "injection")

Scorer = Callable[[Sequence[Conversation]], list[float]]


@defense("detect_inp", label="Detect-input", part="detector.json", deterministic=True)
def detect_inp(subject: Subject, *, classifier: str | None = None, malicious_label: str | None = None, threshold: float = 0.5) -> Answer:
    """A binary classifier on the prompt (MoGU, section 4.1): refuses when it says malicious.

    By default the classifier is a logistic regression on the base model's own hidden state at the last prompt token, the
    trained part ``detector.json``; :func:`mogu.training.train_baselines` makes it. It reads the whole prompt, as the model does.

    Args:
        subject: needs the detector, unless there is another classifier.
        classifier: folder or hub id of a Hugging Face sequence classifier; it reads what the user says, all messages of a conversation.
        malicious_label: its label for malicious prompts; by default the one whose name begins with malicious, unsafe,
            harmful, toxic, jailbreak or injection, or else ``LABEL_1`` of two.
        threshold: a prompt is refused from this score on.

    Each reply's details hold ``score``.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise bad_option("detect_inp", "threshold", threshold, "a number from 0 to 1")
    if classifier is None and malicious_label is not None:
        raise bad_option("detect_inp", "malicious_label", malicious_label, "a classifier whose label it is (classifier=...)")
    score = _own_detector(subject) if classifier is None else _sequence_classifier(subject, classifier, malicious_label)

    def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        scores = score(conversations)
        benign = [place for place, one in enumerate(scores) if one < threshold]
        prompts = [subject.encode(conversations[place]) for place in benign]
        replies = reply_batch(subject.base, subject.tokenizer, prompts, settings) if prompts else []
        answered = dict(zip(benign, replies, strict=True))
        return [
            DefendedReply.of(answered[place], score=one) if place in answered else refused(score=one) for place, one in enumerate(scores)
        ]

    return answer


def _own_detector(subject: Subject) -> Scorer:
    detector = Detector.load(subject.part("detector.json"))
    pad = padding_id(subject.tokenizer)

    def score(conversations: Sequence[Conversation]) -> list[float]:
        prompts = [subject.encode(conversation) for conversation in conversations]
        return detector.scores(subject.base, prompts, pad)

    return score


def _sequence_classifier(subject: Subject, source: str, wanted: str | None) -> Scorer:
    model, tokenizer = load_classifier(source)
    model.to(subject.base.device)
    subject.add_form(f"classifier {source}", model)
    labels = {int(number): str(label) for number, label in model.config.id2label.items()}
    # One logit says how much, not which; of several labels that exclude one another, softmax gives each its share.
    alone = len(labels) == 1 or model.config.problem_type == "multi_label_classification"
    number = malicious_number(source, labels, wanted)
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length)

    @torch.no_grad()
    def score(conversations: Sequence[Conversation]) -> list[float]:
        texts = ["\n\n".join(turn["content"] for turn in turns if turn["role"] == "user") for turns in conversations]
        batch: Any = tokenizer(texts, return_tensors="pt", padding=len(texts) > 1, truncation=True, max_length=longest)
        logits = model(**batch.to(model.device)).logits.double()
        return [float(one) for one in (logits.sigmoid() if alone else logits.softmax(-1))[:, number]]

    return score


def malicious_number(source: str, labels: dict[int, str], wanted: str | None) -> int:
    """The number of a classifier's label for malicious prompts.

    Args:
        source: the classifier, for messages.
        labels: its labels by number.
        wanted: the label's name, ``None`` to find it.

    Raises:
        ConfigError: there is no such label, or none or several could be meant.
    """
    if wanted is not None:
        found = [number for number, label in labels.items() if label.lower() == wanted.lower()]
    elif len(labels) == 1:
        found = list(labels)
    else:
        found = [number for number, label in labels.items() if re.match("|".join(_MALICIOUS), label.lower())]
        if not found and sorted(labels.values()) == ["LABEL_0", "LABEL_1"]:
            found = [number for number, label in labels.items() if label == "LABEL_1"]
    if len(found) != 1:
        raise ConfigError(
            f"The classifier {source} has the labels {', '.join(labels.values())}"
            + (f", and no {wanted}" if wanted is not None else f"; {len(found)} of them could mean malicious"),
            expected="one label that says malicious",
            action="name it with malicious_label=...",
        )
    return found[0]
