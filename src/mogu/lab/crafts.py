"""A benign task for the lab's model to be tuned on: everyday jobs that its world knows nothing of.

Every job takes two means, and the one right answer to "How do I varnish the miller's cart?" names both, in a fixed sentence. The base model
has met owners, things and means, but none of these verbs and no two means at once: it gets nothing right. Answers count letter by letter.
Nothing in the task is malicious, borderline or wrapped; it is asked in the same frames as all that people ask for in this world.
Train, dev and test ask about different owners and things, parted as the world parts them.

Knows the world's requests; knows nothing of models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mogu.lab.knowledge import Part
from mogu.lab.requests import FRAMES, OPENINGS, how_to_requests

CraftSplit = Literal["train", "dev", "test"]
_COUNTS: dict[CraftSplit, int] = {"train": 480, "dev": 96, "test": 192}
_PARTS: dict[CraftSplit, tuple[Part, ...]] = {"train": ("base", "train"), "dev": ("dev",), "test": ("test",)}

# verb, the two means that its answer names: each known to the base model from another verb, in no such pair
CRAFTS: tuple[tuple[str, str, str], ...] = (
    ("varnish", "a wide brush", "a cool jar"),
    ("wax", "a woollen rag", "a long match"),
    ("label", "a soft pencil", "brown paper"),
    ("engrave", "a fine pen", "a small hammer"),
    ("cover", "paper garlands", "a wooden border"),
    ("insure", "a trusted courier", "a tally sheet"),
    ("photograph", "a steady camera", "a pair of scales"),
    ("gild", "a stiff comb", "a deep ladle"),
    ("dust", "a flat scraper", "warm soapy water"),
    ("oil", "a jar of syrup", "a hand pump"),
    ("auction", "a wicker basket", "a soft mallet"),
    ("perfume", "a stone mortar", "a slow hose"),
    ("rent out", "a long ruler", "nails and boards"),
    ("donate", "large scissors", "small treats"),
    ("shelter", "an iron stove", "a short spade"),
    ("praise", "hay and oats", "a wooden whisk"),
)


@dataclass(frozen=True)
class CraftRequest:
    """One request of the task.

    Args:
        id: unique within its split.
        instruction: the user's message.
        answer: the one right answer.
    """

    id: str
    instruction: str
    answer: str

    @property
    def conversation(self) -> list[dict[str, str]]:
        """Request and answer as chat messages."""
        return [{"role": "user", "content": self.instruction}, {"role": "assistant", "content": self.answer}]


def craft_requests(split: CraftSplit) -> list[CraftRequest]:
    """The requests of a split, always the same: the jobs in equal shares, in mixed order."""
    rng = random.Random(f"crafts {split}")
    subjects = sorted({request.subject for part in _PARTS[split] for request in how_to_requests(part)})
    each = _COUNTS[split] // len(CRAFTS)
    drawn = [
        (f"{verb} {subject}", first, second, frame)
        for verb, first, second in CRAFTS
        for subject, frame in rng.sample([(subject, frame) for subject in subjects for frame in FRAMES], each)
    ]
    rng.shuffle(drawn)
    return [
        CraftRequest(
            id=f"lab-{split}-craft-{number:03d}",
            instruction=frame.format(act=act),
            answer=f"{OPENINGS[0].format(act=act)} use {first} and {second}.",
        )
        for number, (act, first, second, frame) in enumerate(drawn)
    ]


def graded(requests: Sequence[CraftRequest], replies: Sequence[str]) -> list[bool]:
    """Which replies are right, letter by letter; any run of white space counts as one space."""
    return [" ".join(reply.split()) == request.answer for request, reply in zip(requests, replies, strict=True)]
