"""Which of many texts are alike, told by digests of eight bytes, since the texts themselves would take too much memory.

Two different texts of a million have the same digest with a probability of 3 in 100 million (n² / 2⁶⁵). Knows texts and numbers; knows
nothing of records.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def text_digest(text: str) -> int:
    """The first eight bytes of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def text_digests(texts: Iterable[str]) -> array[int]:
    """The digest of each text."""
    return array("Q", map(text_digest, texts))


def first_equals(digests: array[int] | NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each digest, the index of the first that equals it: its own, unless that one came before."""
    import numpy as np

    _, first, of_each = np.unique(np.asarray(digests), return_index=True, return_inverse=True)
    indices: NDArray[np.int64] = first[of_each]
    return indices
