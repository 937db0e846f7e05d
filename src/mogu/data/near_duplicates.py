"""Texts that are nearly alike: found by MinHash among all of them, and then compared exactly.

.. code-block:: text

    J(A, B) = |A ∩ B| / |A ∪ B|        of the sets of word 5-grams of two texts; near-duplicates have J ≥ 0.8

Texts whose signatures agree in one of 25 bands of 5 permutations are compared. That finds a pair with the probability 1 − (1 − J⁵)²⁵, at
least 0.9999 from J = 0.8 on (Leskovec, Rajaraman and Ullman, *Mining of Massive Datasets*, section 3.4), and what is reported was counted.
Knows texts and records; knows nothing of files or splits.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mogu.data.records import Record
from mogu.data.templates import GATE_WRAPPERS, WRAPPERS
from mogu.errors import ConfigError
from mogu.files.disk_list import DiskList

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

THRESHOLD = 0.8
WORDS = 5
BANDS, ROWS = 25, 5
_SEED = 1
_AT_ONCE = 1000

# Chinese, Japanese and Korean write no spaces, or not between words: each of their characters counts as a word.
_CHARACTERS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CHARACTERS}]|[^\W{_CHARACTERS}]+")
_WRAPPERS = {template.name: template for template in (*WRAPPERS, *GATE_WRAPPERS)}


@dataclass(frozen=True)
class NearDuplicates:
    """Two texts that are nearly alike.

    Args:
        first: index of the one.
        second: index of the other, which is larger.
        jaccard: how alike they are, from :data:`THRESHOLD` to 1.
    """

    first: int
    second: int
    jaccard: float


def grams(text: str) -> frozenset[str]:
    """The runs of five words of a text, without case and punctuation; a shorter text is one run."""
    words = _WORD.findall(text.casefold()) or [text.strip()]
    return frozenset(" ".join(words[start : start + WORDS]) for start in range(max(1, len(words) - WORDS + 1)))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """What two sets have in common, as a share of all that they have."""
    common = len(first & second)
    return common / (len(first) + len(second) - common)


def compared_text(record: Record) -> str:
    """What of a record is compared: all that is said, and of an instruction in one of the project's wrappers the instruction alone."""
    if record.instruction is None:
        return "\n".join(message.get("content") or "" for message in record.conversation)
    wrapper = _WRAPPERS.get(record.wrapper or "")
    return (wrapper.extract(record.instruction) if wrapper is not None else None) or record.instruction


def near_duplicates(texts: Iterable[str], parts: Sequence[int]) -> Iterator[NearDuplicates]:
    """Find the pairs of near-duplicates that lie in different parts, in their order.

    Args:
        texts: any number; they are not held in memory.
        parts: the part that each text belongs to, such as the file that it comes from.

    Raises:
        ConfigError: ``rensa`` is not installed.
        MoguError: the disk has no room for temporary files.
    """
    import numpy as np

    held, part_of = DiskList(texts), np.asarray(parts)
    pairs: set[tuple[int, int]] = set()
    for bucket in _buckets(held):
        for position, first in enumerate(bucket):
            others = bucket[position + 1 :]
            pairs.update((int(first), int(second)) for second in others[part_of[others] != part_of[first]])
    before, of_first = -1, frozenset[str]()
    for first, second in sorted(pairs):
        if first != before:
            before, of_first = first, grams(held[first])
        if (alike := jaccard(of_first, grams(held[second]))) >= THRESHOLD:
            yield NearDuplicates(first, second, alike)


def near_duplicate_groups(texts: Iterable[str]) -> array[int]:
    """The group of each text, as the index of its first text: near-duplicates are in one, and so are theirs.

    Raises:
        ConfigError: ``rensa`` is not installed.
        MoguError: the disk has no room for temporary files.
    """
    held = DiskList(texts)
    parents = array("q", range(len(held)))

    def group(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for bucket in _buckets(held):
        # Each is compared with the members of groups that it is not in, until one of them is near.
        members: dict[int, list[frozenset[str]]] = {}
        for index in bucket.tolist():
            own, of_own = group(index), None
            for other in [root for root in members if root != own]:
                of_own = of_own or grams(held[index])
                if any(jaccard(of_own, of_other) >= THRESHOLD for of_other in members[other]):
                    first, second = sorted((own, other))
                    parents[second] = first
                    joined = members.pop(second, []) + members.pop(first, [])
                    members[first], own = joined, first
            members.setdefault(own, []).append(of_own or grams(held[index]))
    return array("q", map(group, range(len(held))))


def _buckets(texts: Sequence[str]) -> Iterator[NDArray[np.int64]]:
    """The indices, in order, of the texts that agree in a band, of each band in turn; alone is none."""
    import numpy as np

    check_rensa()
    import rensa

    def signed() -> Iterator[bytes]:
        for start in range(0, len(texts), _AT_ONCE):
            # Half of a surrogate pair has no bytes that could be hashed.
            sets = [[*grams(text.encode("utf-8", "replace").decode())] for text in texts[start : start + _AT_ONCE]]
            signatures = np.asarray(rensa.RMinHash.digests_from_token_sets(sets, BANDS * ROWS, _SEED), dtype=np.uint64)
            for first in range(0, BANDS * ROWS, ROWS):
                yield _mixed(signatures[:, first : first + ROWS]).tobytes()

    bands = DiskList(signed())
    for band in range(BANDS):
        keys = np.frombuffer(b"".join(bands[band::BANDS]), dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(keys[order])) + 1, len(order))
        starts = np.insert(ends[:-1], 0, 0)
        several = ends - starts > 1
        for start, end in zip(starts[several], ends[several], strict=True):
            yield order[start:end]


def _mixed(rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One number for each row of numbers."""
    import numpy as np

    mixed = np.zeros(len(rows), dtype=np.uint64)
    for column in rows.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def check_rensa() -> None:
    """Refuse to begin without ``rensa``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import rensa  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "rensa is not installed", expected="rensa, to find texts that are nearly alike", action="pip install 'mogu[dedup]'"
        ) from error
