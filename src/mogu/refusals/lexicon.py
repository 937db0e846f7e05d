"""The words of a reply: single ones and pairs, each with a weight that was learned from replies that people labeled.

What a reply does beyond its first sentences shows in its words: somebody who explains steps writes others than somebody who lectures.
Knows sentences in lower case and a table of weights; knows nothing of prompts.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

SHRINKAGE = 15.0
"""Added to the norm of a reply's words, so that the words of a short reply, of which there are few, weigh little."""

_TERM = re.compile(r"[a-z']+|[:!?]")


def terms(sentence: str) -> list[str]:
    """The words and marks of a sentence, and its pairs of neighbors: ``"sit down"`` for two words next to each other."""
    words = _TERM.findall(sentence)
    return [*words, *(f"{first} {second}" for first, second in pairwise(words))]


def shares(sentences: Sequence[str], known: Mapping[str, object]) -> dict[str, float]:
    """What each known term counts for in a reply: ``log(1 + n) / (‖log(1 + n)‖ + 15)``, ``n`` being how often it occurs.

    Args:
        sentences: in lower case.
        known: the terms that count.
    """
    counts = Counter(term for sentence in sentences for term in terms(sentence) if term in known)
    logs = {term: math.log1p(count) for term, count in counts.items()}
    norm = math.sqrt(sum(value * value for value in logs.values())) + SHRINKAGE
    return {term: value / norm for term, value in logs.items()}
