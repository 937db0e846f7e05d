"""A limit on near-identical prompts: whoever searches for a wording that gets past a gate asks nearly the same thing many times.

Knows texts and clocks; knows nothing of HTTP, models or scores.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mogu.errors import ConfigError

LIMIT = "MOGU_LIMIT_SIMILAR"
"""The environment variable with how many near-identical prompts a caller may send in :data:`WINDOW` seconds."""

WINDOW = 600.0
SHARED = 0.4
"""Two prompts are near-identical if this share of the shorter one's pieces is in the other."""

_PIECE = 4  # characters
_PIECES = 2000  # of a prompt, at most
_PROMPTS = 200  # of a caller, at most
_CALLERS = 2000


@dataclass
class SimilarPrompts:
    """What callers have asked lately.

    Args:
        limit: near-identical prompts that a caller may send within the window.
        clock: seconds.
    """

    limit: int
    clock: Callable[[], float] = time.monotonic
    _asked: OrderedDict[str, deque[tuple[float, frozenset[int]]]] = field(default_factory=OrderedDict, init=False)

    def admits(self, caller: str, text: str) -> bool:
        """Whether a caller may ask this; it is remembered if so.

        Args:
            caller: who asks.
            text: the prompt.
        """
        now, pieces = self.clock(), _pieces(text)
        asked = self._asked.setdefault(caller, deque(maxlen=_PROMPTS))
        self._asked.move_to_end(caller)
        while len(self._asked) > _CALLERS:
            self._asked.popitem(last=False)
        while asked and asked[0][0] < now - WINDOW:
            asked.popleft()
        if sum(_alike(pieces, earlier) for _, earlier in asked) >= self.limit:
            return False
        asked.append((now, pieces))
        return True


def limit_of_environment() -> SimilarPrompts | None:
    """The limit that the environment names; ``None`` where it names none.

    Raises:
        ConfigError: it is no whole number above 0.
    """
    value = os.environ.get(LIMIT, "").strip()
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"{LIMIT} is {value!r:.80}", expected="a whole number above 0", action="correct it, or unset it")
    return SimilarPrompts(int(value))


def _pieces(text: str) -> frozenset[int]:
    """Fingerprints of a text's pieces, whatever its case and white space."""
    plain = " ".join(text.casefold().split())[: _PIECES + _PIECE - 1]
    return frozenset(hash(plain[start : start + _PIECE]) for start in range(max(1, len(plain) - _PIECE + 1)))


def _alike(one: frozenset[int], other: frozenset[int]) -> bool:
    return len(one & other) >= SHARED * min(len(one), len(other))
