"""Splitting records into train, dev and test so that no instruction is in two of them.

Knows records; knows nothing of files, templates or models.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Literal

from mogu.data.records import KINDS, Record
from mogu.errors import ConfigError, DataError

Split = Literal["train", "dev", "test"]


def normalized(instruction: str) -> str:
    """Strip an instruction of case, repeated white space and closing punctuation, which do not make it a different one."""
    return " ".join(instruction.casefold().split()).rstrip(" .?!,;:…")


def source_id(record: Record) -> str:
    """Return the id of the bare record that this one was made from: its own if it is bare."""
    return record.source or record.id


def split_records(records: Sequence[Record], *, dev: float = 0.1, test: float = 0.1, seed: int = 0) -> dict[Split, list[Record]]:
    """Split records by instruction, each kind in the same shares; all records of one instruction, wrapped or bare, stay together.

    Args:
        records: in any order, which every split keeps.
        dev: share of each kind's instructions for the dev split, in [0, 1); if it is above 0, at least one instruction goes there.
        test: the same for the test split.
        seed: the same seed and instructions give the same splits.

    Raises:
        ConfigError: a share is out of range, or nothing would be left to train on.
        DataError: a kind has fewer instructions than there are splits to fill.
    """
    check_shares(dev, test)
    group_of = _groups(records)
    split_of: dict[str, Split] = {}
    for kind in KINDS:
        groups = sorted({group_of[source_id(record)] for record in records if record.kind == kind})
        if not groups:
            continue
        sizes: dict[Split, int] = {"dev": _size(dev, len(groups)), "test": _size(test, len(groups))}
        if sum(sizes.values()) >= len(groups):
            raise DataError(
                f"There are only {len(groups)} {kind} instructions",
                expected="at least one in each of the splits",
                action="give more instructions, or a share of 0 for a split",
            )
        random.Random(f"{seed}:{kind}").shuffle(groups)
        split_of |= dict.fromkeys(groups, "train")
        split_of |= dict.fromkeys(groups[: sizes["dev"]], "dev")
        split_of |= dict.fromkeys(groups[sizes["dev"] : sizes["dev"] + sizes["test"]], "test")
    splits: dict[Split, list[Record]] = {"train": [], "dev": [], "test": []}
    for record in records:
        splits[split_of[group_of[source_id(record)]]].append(record)
    return splits


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


def _groups(records: Iterable[Record]) -> dict[str, str]:
    """Return the group of each source id; ids whose bare instructions read the same are one group."""
    first_with: dict[str, str] = {}
    group_of: dict[str, str] = {}
    for record in records:
        if record.source is None:
            text = normalized("\n".join(message.get("content") or "" for message in record.conversation))
            group_of[record.id] = first_with.setdefault(text, record.id)
    for record in records:
        group_of.setdefault(source_id(record), source_id(record))
    return group_of


def _size(share: float, groups: int) -> int:
    return max(1, round(share * groups)) if share else 0
