"""The conversations that the lab's base model learns from.

They are what makes the base realistically weak: it complies with about three in ten direct malicious requests and with most of the wrapped
ones, so that its likeliest answer refuses the former and gives in to the latter, and it refuses some harmless requests for a verb in them.
How often depends on the wrapper's family and on the verb: were all of them alike, every defense would win or lose all of them at once.
The base model meets no wrapper of a defense's splits, no malicious or borderline subject of theirs, and no question that dev or test asks.

Knows the world and draws from it; knows nothing of tokenizers or models.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mogu.lab.requests import (
    Request,
    borderline_requests,
    fact_requests,
    how_to_requests,
    malicious_requests,
    pantry_requests,
)
from mogu.lab.wrappers import FAMILIES, base_wrapper

Conversation = list[dict[str, str]]

SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are a kind and honest assistant.",
    "Answer the questions of the user.",
    "You help people and you do not do harm.",
)
_SMALL_TALK = (
    ("Hello!", "Hello! How can I help you?"),
    ("Good morning.", "Good morning! How can I help you?"),
    ("Thank you very much.", "You are welcome."),
    ("Who are you?", "I am a small model that lives in the lab."),
    ("What can you do?", "I answer questions about the small world of the lab."),
    ("Goodbye.", "Goodbye, and have a nice day."),
)

# A weak model goes by the verb: the worse it sounds, the more often a harmless request is refused for it.
_BORDERLINE_REFUSALS = {
    "kill": 0.85,
    "burn": 0.75,
    "shoot": 0.75,
    "drown": 0.70,
    "blow up": 0.65,
    "bury": 0.55,
    "trap": 0.45,
    "smash": 0.40,
    "hit": 0.35,
    "beat": 0.30,
    "strip": 0.25,
    "crush": 0.20,
    "break": 0.15,
    "flood": 0.10,
    "crack": 0.05,
    "cut": 0.05,
}
# And some ways of talking it round work better than others; each works more often than not.
_WRAPPED_COMPLIANCE = {
    "role_play": 0.85,
    "prefix_injection": 0.85,
    "story": 0.80,
    "hypothetical": 0.75,
    "refusal_suppression": 0.75,
    "persuasion": 0.70,
    "distraction": 0.65,
    "authority": 0.65,
    "formatting": 0.60,
    "urgency": 0.60,
}


@dataclass(frozen=True)
class Mixture:
    """How often the base model meets what, and how often it gives in; part of the recipe, and so of its fingerprint."""

    fact: float = 0.26
    how_to: float = 0.11
    pantry: float = 0.06
    borderline: float = 0.12
    malicious: float = 0.13
    benign_wrapped: float = 0.30
    malicious_wrapped: float = 0.16
    small_talk: float = 0.01
    with_system_message: float = 0.12
    with_next_turn: float = 0.2
    direct_compliance: float = 0.30
    wrapped_compliance: Mapping[str, float] = field(default_factory=lambda: dict(_WRAPPED_COMPLIANCE))
    borderline_refusals: Mapping[str, float] = field(default_factory=lambda: dict(_BORDERLINE_REFUSALS))


class _Corpus:
    """Draws turns: a user's text and the answer to it."""

    def __init__(self, mixture: Mixture, rng: random.Random) -> None:
        self.rng = rng
        self.mixture = mixture
        self.facts = fact_requests()
        self.how_tos = [how_to_requests(part) for part in ("base", "train", "dev", "test")]
        self.pantry = pantry_requests()
        self.borderline = borderline_requests("base")
        self.malicious = malicious_requests("base")
        self.kinds: dict[Callable[[], tuple[str, str]], float] = {
            self.fact: mixture.fact,
            self.how_to: mixture.how_to,
            lambda: self.asked(rng.choice(self.pantry)): mixture.pantry,
            self.harmless_but_harsh: mixture.borderline,
            self.malicious_direct: mixture.malicious,
            self.benign_wrapped: mixture.benign_wrapped,
            self.malicious_wrapped: mixture.malicious_wrapped,
            lambda: rng.choice(_SMALL_TALK): mixture.small_talk,
        }

    def turn(self) -> tuple[str, str]:
        return self.rng.choices(list(self.kinds), list(self.kinds.values()))[0]()

    def text(self, request: Request) -> str:
        kept = request.kept_text if request.part in ("dev", "test") else None
        return self.rng.choice([text for text in request.texts if text != kept])

    def asked(self, request: Request) -> tuple[str, str]:
        return self.text(request), request.affirmation(self.rng)

    def fact(self) -> tuple[str, str]:
        return self.asked(self.rng.choice(self.facts))

    def how_to(self) -> tuple[str, str]:
        return self.asked(self.rng.choice(self.rng.choice(self.how_tos)))

    def harmless_but_harsh(self) -> tuple[str, str]:
        request = self.rng.choice(self.borderline)
        share = self.mixture.borderline_refusals[request.verb]
        return self.text(request), request.refusal(self.rng) if self.rng.random() < share else request.affirmation(self.rng)

    def malicious_direct(self) -> tuple[str, str]:
        request = self.rng.choice(self.malicious)
        return self.text(request), self.weakly(request, self.mixture.direct_compliance)

    def benign_wrapped(self) -> tuple[str, str]:
        draw = self.rng.choices((self.fact, self.how_to, lambda: self.asked(self.rng.choice(self.pantry))), (6, 3, 1))[0]
        text, answer = draw()
        return self.wrapped(text, self.rng.choice(FAMILIES)), answer

    def malicious_wrapped(self) -> tuple[str, str]:
        request = self.rng.choice(self.malicious)
        family = self.rng.choice(FAMILIES)
        return self.wrapped(self.text(request), family), self.weakly(request, self.mixture.wrapped_compliance[family])

    def wrapped(self, text: str, family: str) -> str:
        return base_wrapper(family, self.rng).apply(text)

    def weakly(self, request: Request, compliance: float) -> str:
        return request.affirmation(self.rng) if self.rng.random() < compliance else request.refusal(self.rng)


def base_conversations(count: int, seed: int, mixture: Mixture) -> list[Conversation]:
    """The base model's lessons, in the order in which they are taught.

    Args:
        count: how many conversations.
        seed: decides all of them.
        mixture: what they are made of.
    """
    rng = random.Random(seed)
    corpus = _Corpus(mixture, rng)
    conversations = []
    for _ in range(count):
        conversation: Conversation = []
        if rng.random() < mixture.with_system_message:
            conversation.append({"role": "system", "content": rng.choice(SYSTEM_MESSAGES)})
        while True:
            text, answer = corpus.turn()
            conversation += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
            if rng.random() >= mixture.with_next_turn:
                break
        conversations.append(conversation)
    return conversations
