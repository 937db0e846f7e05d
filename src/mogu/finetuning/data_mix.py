"""MoGU pairs among a user's data, at a share that is asked for, and the user's data as pairs.

Knows records and conversations; knows nothing of tokens or models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from mogu.data import Chat, Record, Turn, refusal_for


def mixed_in(pairs: Sequence[Record], share: float, others: int, seed: int) -> list[Record]:
    """Pairs for a share of the whole: ``round(share / (1 − share) · others)`` of them, half of them malicious.

    Where there are too few pairs of a label, each is taken again only when all were; the odd one is malicious. A smaller share's pairs
    are among a larger one's.

    Args:
        pairs: of both labels.
        share: of all examples, theirs and these, in [0, 1).
        others: how many others there are.
        seed: decides which.
    """
    wanted = round(share / (1 - share) * others)
    chosen: list[Record] = []
    for label, count in (("benign", wanted // 2), ("malicious", wanted - wanted // 2)):
        own = [record for record in pairs if record.label == label]
        order = random.Random(f"{seed}:mix:{label}").sample(own, len(own))
        chosen += [order[place % len(order)] for place in range(count)]
    return chosen


def task_pairs(chats: Sequence[Chat], count: int, seed: int) -> list[Record]:
    """Conversations as benign pairs: the last answer, and a refusal in its place.

    Args:
        chats: to draw from; those whose last answer follows no turn of the user are passed over.
        count: how many at most.
        seed: decides which, and the refusals.
    """
    rng = random.Random(f"{seed}:task pairs")
    made = []
    for number, chat in enumerate(rng.sample(chats, min(count, len(chats)))):
        last = max(place for place, message in enumerate(chat.messages) if message.role == "assistant")
        before = chat.messages[:last]
        if before and before[-1].role == "user":
            refusal = refusal_for(before[-1].content, rng)
            affirm = chat.messages[last].content
            turns = tuple(Turn(role=message.role, content=message.content) for message in before)
            made.append(Record(id=f"task-{number}", label="benign", messages=turns, affirm=affirm, reject=refusal))
    return made
