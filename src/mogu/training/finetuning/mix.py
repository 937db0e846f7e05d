"""Which MoGU pairs stand among a user's data, at a share that is asked for.

Knows counts and orders; knows nothing of tokens or models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from mogu.data import Record


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
