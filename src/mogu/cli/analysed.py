"""What commands that analyse a model with records have in common: their names for the lab, and their progress bars.

Knows the command line; knows nothing of what is analysed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from mogu.data import Record

LAB = "lab"


def named_model(name: str) -> str:
    """The folder or hub id of a model that was named; ``"lab"`` is the lab's base model."""
    if name != LAB:
        return name
    from mogu.lab import build_base

    return str(build_base())


def named_records(data: str) -> list[Record]:
    """The records of a ``.jsonl`` file or of a folder in the published layout; ``"lab"`` stands for the lab's training records.

    Raises:
        DataError: they cannot be read.
    """
    from mogu.data import read_published, read_records

    if data == LAB:
        from mogu.lab import records

        return records("train")
    path = Path(data)
    return read_published(path) if path.is_dir() else read_records(path)


def shown_by(bars: Progress) -> Callable[[str, int, int], None]:
    """Tells bars of what is under way, how much of it is done and how much there is: a bar for each thing."""
    tasks: dict[str, TaskID] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total, note="")
        bars.update(tasks[what], completed=done)

    return show
