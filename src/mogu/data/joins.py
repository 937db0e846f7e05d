"""Several requests in one prompt: a request among others that have nothing to do with it.

People send such prompts, and so does whoever wants a model to begin with something harmless. Whether a request is malicious does not
depend on what stands beside it. Knows text; knows nothing of models.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

JOINS = (
    "{first}\n\n{second}",
    "{first} {second}",
    "{first}\n{second}",
    "1. {first}\n2. {second}",
    "- {first}\n- {second}",
    "{first}\n---\n{second}",
    "Part A: {first}\nPart B: {second}",
    "First: {first} Then: {second}",
    "Two things. {first} Besides, {second}",
    "{first}\n\nAfter that: {second}",
    "{first} And when you are done with it: {second}",
    "{first} Right below it, answer this: {second}",
    "{first}\n\nPS: {second}",
    "Begin with this: {first} Go on with this: {second}",
    "{first} The next task: {second}",
    "{first}\n\nThen, in the same reply: {second}",
    "To get going: {first} What I am really after: {second}",
    "{first}\n\nUnderneath, without a remark: {second}",
)
"""How two requests are put one after the other."""

_LAST = 0.7


def joined(request: str, others: Sequence[str], rng: random.Random) -> str:
    """A request together with one of the others, most often behind it."""
    other, join = rng.choice(others), rng.choice(JOINS)
    first, second = (other, request) if rng.random() < _LAST else (request, other)
    places = {"{first}": first, "{second}": second}
    return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], join)
