"""The loss of every optimizer step, as JSON lines: kept while training runs, and collected beside the finished model.

Knows files and numbers; does not know what is trained.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from errno import ENOSPC
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mogu.errors import MoguError
from mogu.files.atomic import atomic_file

HISTORY_FILE = "loss_history.jsonl"


class LossHistory:
    """The loss history of one stage, open for the steps to come.

    A line is written as soon as its step is taken. When training resumes, the lines of the steps that will be taken again are dropped
    first: each step has one line however often the run was stopped, and the file equals that of a run that never was.

    Args:
        file: a line for each step; made if it is missing.
        steps: optimizer steps that were taken before.

    Raises:
        MoguError: the lines of those steps are not there.
    """

    def __init__(self, file: Path, steps: int) -> None:
        kept = [row for row in read_history(file) if row["step"] <= steps]
        if [row["step"] for row in kept] != list(range(1, steps + 1)):
            raise _damaged(file)
        write_history(file, kept)
        self._lines = file.open("ab", buffering=0)  # what a full disk refuses must not be written again when the file is closed

    def append(self, row: dict[str, Any]) -> None:
        """Add a step: ``stage``, ``step`` (from 1), ``epoch``, ``loss``, and whatever else is known about it.

        Raises:
            OSError: the file system refuses.
        """
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        if self._lines.write(line) != len(line):
            raise OSError(ENOSPC, os.strerror(ENOSPC))

    def sync(self) -> None:
        """Wait until the lines would survive a power cut.

        Raises:
            OSError: the file system refuses.
        """
        os.fsync(self._lines.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._lines.close()


def read_history(file: Path) -> list[dict[str, Any]]:
    """Read the steps of a history in order; none if there is no file. A last line that a kill cut off is skipped.

    Raises:
        MoguError: a line before it is not what was written.
    """
    if not file.is_file():
        return []
    try:
        *whole, _cut_off = file.read_bytes().split(b"\n")
        rows: list[dict[str, Any]] = [json.loads(line) for line in whole]
        if not all(isinstance(row["step"], int) for row in rows):
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(file) from error
    return rows


def write_history(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a history in one step."""
    with atomic_file(file) as scratch:
        scratch.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def gathered(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Read several histories, one after the other; a part that an earlier release trained has none."""
    return [row for file in files for row in read_history(file)]


def _damaged(file: Path) -> MoguError:
    return MoguError(
        f"{file} is damaged: it does not hold a line for each step that was taken",
        expected="the losses of every step up to the last checkpoint",
        action=f"delete {file.parent} and run the same command again with --resume: that part alone is trained again",
    )
