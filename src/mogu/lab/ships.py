"""A benign task to fine-tune the lab's model on: a fleet of ships that its world does not contain.

It stands for knowledge of a user's own: where each ship sails and what it carries, in the style of the world's facts. The base model
knows such places and goods, but none of the ships, and gets almost nothing right. All facts are taught; dev and test ask for each in
words that train does not use for it. An answer has to match exactly. Nothing in the task is malicious, borderline or wrapped, and no
subject of the world's own requests is among the ships.

Knows the ships and the questions; knows nothing of models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mogu.lab.knowledge import Attribute, words

FleetSplit = Literal["train", "dev", "test"]
_QUESTIONS: dict[FleetSplit, tuple[int, ...]] = {"train": (0, 1, 2, 3, 4), "dev": (5,), "test": (6,)}

SHIPS = words(
    "Plover Teasel Corrin Bindle Whimsy Tarrock Mistel Orlop Quarrel Spindle Jessamy Cobbin Larkin Nettop Ruddle Sorrin Vesper "
    "Gannet Heron Linnet Marten Osprey Petrel Redwing Sandpiper Tern Umber Wagtail Yaffle Zephyr Avocet Bunting Curlew Dunlin "
    "Eider Fulmar Grebe Hoopoe Ibis Jackdaw"
)
ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        (
            "Where does the ship {s} sail?",
            "Tell me where the ship {s} sails.",
            "What is the port of the ship {s}?",
            "To which village does the ship {s} go?",
            "Where can I find the ship {s}?",
            "In what place does the ship {s} land?",
            "Where would one look for the ship {s}?",
        ),
        "The ship {s} sails to {v}.",
        ("Brimmerby", "Aldermoss", "Cranwick", "Dunhallow", "Eskenford", "Farrowmere", "Gillsby", "Harthollow"),
    ),
    Attribute(
        (
            "What does the ship {s} carry?",
            "Tell me the cargo of the ship {s}.",
            "What goes into the ship {s}?",
            "Which goods does the ship {s} bring?",
            "Which things are carried by the ship {s}?",
            "What do people find in the ship {s}?",
            "Tell me what is on the ship {s}.",
        ),
        "The ship {s} carries {v}.",
        ("cheese", "bells", "honey", "carpets", "pottery", "roses", "candles", "cider"),
    ),
)


@dataclass(frozen=True)
class FleetRequest:
    """A request of the task.

    Args:
        id: unique within its split.
        instruction: the user's message.
        answer: the right answer.
    """

    id: str
    instruction: str
    answer: str

    @property
    def conversation(self) -> list[dict[str, str]]:
        """Request and answer as chat messages."""
        return [{"role": "user", "content": self.instruction}, {"role": "assistant", "content": self.answer}]


def fleet_requests(split: FleetSplit) -> list[FleetRequest]:
    """List the requests of a split, always the same, in mixed order: 400 for training, 80 each in dev and test."""
    facts = random.Random("fleet")
    pairs = []
    for ship in SHIPS:
        for attribute in ATTRIBUTES:
            answer = attribute.answer.format(s=ship, v=facts.choice(attribute.values))
            questions = facts.sample(attribute.questions, len(attribute.questions))
            pairs += [(questions[index].format(s=ship), answer) for index in _QUESTIONS[split]]
    random.Random(f"fleet {split}").shuffle(pairs)
    return [FleetRequest(f"lab-{split}-fleet-{number:03d}", question, answer) for number, (question, answer) in enumerate(pairs)]


def graded(requests: Sequence[FleetRequest], replies: Sequence[str]) -> list[bool]:
    """Tell which replies are exactly right; runs of white space count as one space."""
    return [" ".join(reply.split()) == request.answer for request, reply in zip(requests, replies, strict=True)]
