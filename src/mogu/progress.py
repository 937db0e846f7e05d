"""What a person sees while training runs: progress bars with loss and time left, on the error stream, and nothing else.

Knows the terminal; knows nothing of what is trained. Of several processes, the main one shows its own share. Standard output stays
free for results.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mogu.processes import is_main


def progress_bars(console: Console | None = None) -> Progress:
    """Bars with count, note (the loss, in training), time gone and time left; tasks take a field ``note``.

    Where there is no terminal, in a log say, each task is a plain line every ten seconds, and one when it is done.
    """
    console = console or Console(stderr=True, quiet=not is_main())
    if not console.is_interactive and not console.is_jupyter:
        return PlainLines(console)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


class PlainLines(Progress):
    """Says in lines what bars would show: ``glad: 40 of 112, loss 0.312, 0:00:21 gone, 0:00:38 left``."""

    def __init__(self, console: Console, *, seconds: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console=console, disable=True, get_time=clock)
        self._seconds, self._clock = seconds, clock
        self._said: dict[TaskID, tuple[float, float | None]] = {}
        """Of each task when its last line was written, and what was done by then."""

    def add_task(self, *args: Any, **kwargs: Any) -> TaskID:
        """Begin a task; its first line comes when there is something to say."""
        task_id = super().add_task(*args, **kwargs)
        self._said[task_id] = (self._clock(), None)
        return task_id

    def update(self, task_id: TaskID, *args: Any, **kwargs: Any) -> None:
        """As in a bar."""
        super().update(task_id, *args, **kwargs)
        self._say(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As in a bar."""
        super().advance(task_id, advance)
        self._say(task_id)

    def _say(self, task_id: TaskID) -> None:
        with self._lock:
            task = self._tasks[task_id]
            now, (before, done) = self._clock(), self._said[task_id]
            if done == task.completed or (now - before < self._seconds and not task.finished):
                return
            self._said[task_id] = (now, task.completed)
        count = f"{task.completed:g}" + (f" of {task.total:g}" if task.total is not None else "")
        left = "" if task.finished or task.time_remaining is None else f"{timedelta(seconds=int(task.time_remaining))} left"
        gone = f"{timedelta(seconds=int(task.elapsed or 0))} gone"
        parts = (count, str(task.fields.get("note", "")), gone, left)
        self.console.print(
            f"{task.description}: {', '.join(part for part in parts if part)}", markup=False, highlight=False, soft_wrap=True
        )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep the Trainer's and the loaders' own chatter out of the progress bars."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between PEFT and transformers, of no use to a person who trains
            yield
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
