"""MoGU pairs mixed into a user's data at a given share, and the user's data as pairs.

Knows records and conversations; knows nothing of tokens or models.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence

from mogu.data import Chat, Record, Turn, refusal_for
from mogu.files.disk_list import pick


def mixed_in(pairs: Sequence[Record], share: float, others: int, seed: int) -> Sequence[Record]:
    """Choose the pairs for a share of the whole: ``round(share / (1 − share) · others)`` of them, half of them malicious.

    If there are too few pairs of a label, each is repeated only when all were taken; of an odd number, the last one is malicious. The
    pairs of a smaller share are among those of a larger one.

    Args:
        pairs: of both labels.
        share: the pairs' share of all examples, in [0, 1).
        others: number of the other examples.
        seed: decides which pairs are chosen.
    """
    total = round(share / (1 - share) * others)
    chosen = array("Q")
    for label, count in (("benign", total // 2), ("malicious", total - total // 2)):
        own = array("Q", (index for index, record in enumerate(pairs) if record.label == label))
        order = random.Random(f"{seed}:mix:{label}").sample(own, len(own))
        chosen.extend(order[number % len(order)] for number in range(count))
    return pick(pairs, chosen)


def task_pairs(chats: Sequence[Chat], count: int, seed: int) -> list[Record]:
    """Turn conversations into benign pairs: the last answer, and a refusal in its place.

    Args:
        chats: the conversations to draw from; those whose last answer does not follow a user's turn are skipped.
        count: the most pairs to make.
        seed: decides which conversations are drawn, and the refusals.
    """
    rng = random.Random(f"{seed}:task pairs")
    pairs = []
    for number, chat in enumerate(rng.sample(chats, min(count, len(chats)))):
        last = max(index for index, message in enumerate(chat.messages) if message.role == "assistant")
        before = chat.messages[:last]
        if before and before[-1].role == "user":
            refusal = refusal_for(before[-1].content, rng)
            affirm = chat.messages[last].content
            turns = tuple(Turn(role=message.role, content=message.content) for message in before)
            pairs.append(Record(id=f"task-{number}", label="benign", messages=turns, affirm=affirm, reject=refusal))
    return pairs
