"""Splitting records into train, dev and test so that no instruction is in two of them.

Knows records; knows nothing of files, templates or models.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mogu.data.records import KINDS, Record
from mogu.data.text_digests import first_equals, text_digest
from mogu.errors import ConfigError, DataError
from mogu.files.disk_list import pick

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def normalized(instruction: str) -> str:
    """Strip an instruction of case, repeated white space and closing punctuation, which do not make it a different one."""
    return " ".join(instruction.casefold().split()).rstrip(" .?!,;:…")


def source_id(record: Record) -> str:
    """Return the id of the bare record that this one was made from: its own if it is bare."""
    return record.source or record.id


def split_records(
    records: Sequence[Record], *, dev: float = 0.1, test: float = 0.1, seed: int = 0, together: Sequence[int] | None = None
) -> dict[Split, Sequence[Record]]:
    """Split records by instruction, each kind in the same shares; all records of one instruction, wrapped or bare, stay together.

    Args:
        records: in any order, which every split keeps.
        dev: share of each kind's instructions for the dev split, in [0, 1); if it is above 0, at least one instruction goes there.
        test: the same for the test split.
        seed: the same seed and instructions give the same splits.
        together: of each record, the index of one that it stays together with, as :func:`near_duplicate_groups` says.

    Raises:
        ConfigError: a share is out of range, or nothing would be left to train on.
        DataError: a kind has fewer instructions than there are splits to fill.
    """
    import numpy as np

    check_shares(dev, test)
    groups = _Groups.of(records)
    if together is not None:
        groups.join(together)
    split_of_group = np.zeros(len(records), dtype=np.uint8)
    for number, kind in enumerate(KINDS):
        of_kind = array("q", groups.with_kind(number))
        if not of_kind:
            continue
        dev_size, test_size = _size(dev, len(of_kind)), _size(test, len(of_kind))
        if dev_size + test_size >= len(of_kind):
            raise DataError(
                f"There are only {len(of_kind)} {kind} instructions",
                expected="at least one in each of the splits",
                action="give more instructions, or a share of 0 for a split",
            )
        random.Random(f"{seed}:{kind}").shuffle(of_kind)
        for split, (start, end) in enumerate(((0, None), (0, dev_size), (dev_size, dev_size + test_size))):
            split_of_group[of_kind[start:end]] = split
    split_of = split_of_group[groups.group_of]
    return {name: pick(records, np.flatnonzero(split_of == split)) for split, name in enumerate(SPLITS)}


def check_shares(dev: float, test: float) -> None:
    """Refuse shares that :func:`split_records` cannot use, before time is spent on making records.

    Raises:
        ConfigError: a share is out of range, or nothing would be left to train on.
    """
    if not (0 <= dev < 1 and 0 <= test < 1 and dev + test < 1):
        raise ConfigError(
            f"The shares of the splits are dev {dev:g} and test {test:g}",
            expected="shares of at least 0 that leave something for training (together below 1)",
            action="give smaller shares",
        )


@dataclass(frozen=True)
class _Groups:
    """The records of one instruction, under the index of one of them: bare ones that read the same, and all that were made of them.

    Numbers alone: texts and ids of a million records would take too much memory.
    """

    group_of: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    names: NDArray[np.bytes_]

    @classmethod
    def of(cls, records: Sequence[Record]) -> _Groups:
        import numpy as np

        bare_, ids_, sources_, texts_, kinds_ = array("B"), array("Q"), array("Q"), array("Q"), array("B")
        longest = 1
        for record in records:
            text = "" if record.source else normalized("\n".join(message.get("content") or "" for message in record.conversation))
            bare_.append(not record.source)
            ids_.append(text_digest(record.id))
            sources_.append(text_digest(source_id(record)))
            texts_.append(text_digest(text))
            kinds_.append(KINDS.index(record.kind))
            longest = max(longest, len(_bytes(source_id(record))))
        ids, sources, texts = np.asarray(ids_), np.asarray(sources_), np.asarray(texts_)
        bare, made = np.flatnonzero(np.asarray(bare_)), np.flatnonzero(np.asarray(bare_) == 0)
        group_of = np.arange(len(ids_))
        group_of[bare] = bare[first_equals(texts[bare])]
        group_of[made] = made[first_equals(sources[made])]
        if len(bare) and len(made):
            by_id = bare[np.argsort(ids[bare], kind="stable")]
            places = np.searchsorted(ids[by_id], sources[made])
            of_source = by_id[np.minimum(places, len(by_id) - 1)]
            group_of[made] = np.where(ids[of_source] == sources[made], group_of[of_source], group_of[made])
        names = np.zeros(len(ids), dtype=f"S{longest}")
        for index, (record, group) in enumerate(zip(records, group_of, strict=True)):
            if index == group:
                names[index] = _bytes(source_id(record))
        return cls(group_of, np.asarray(kinds_), names)

    def join(self, together: Sequence[int]) -> None:
        """Put the groups of each record and of the one that it stays together with into one, under the name of the first of them."""

        def root(group: int) -> int:
            while self.group_of[group] != group:
                self.group_of[group] = self.group_of[self.group_of[group]]
                group = self.group_of[group]
            return group

        for index, other in enumerate(together):
            first, second = sorted((root(index), root(other)))
            self.group_of[second] = first
        for index in range(len(self.group_of)):
            self.group_of[index] = root(index)

    def with_kind(self, kind: int) -> NDArray[np.int64]:
        """Those with a record of a kind, in the order of their names."""
        import numpy as np

        groups = np.unique(self.group_of[self.kinds == kind])
        return groups[np.argsort(self.names[groups], kind="stable")]


def _bytes(name: str) -> bytes:
    """In UTF-8, whose order is that of the characters."""
    return name.encode("utf-8", "surrogatepass")


def _size(share: float, groups: int) -> int:
    return max(1, round(share * groups)) if share else 0
