"""Processes that share what one command has to make, on this machine or on a cluster of Ray's.

The command deals out tasks, one at a time to each worker, and a task whose worker is lost to another one. What a task makes is a file that
appears whole or not at all, so nothing comes back but errors. Ray is an extra, imported when workers are asked for. Knows nothing of what
is made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

from mogu.workers.config import Workers, nothing
from mogu.workers.crew import Crew, TaskT

__all__ = ["Workers", "nothing", "share_out"]


def share_out(workers: Workers, rounds: Iterable[Sequence[TaskT]], maker: Callable[[], Callable[[TaskT], object]], *, shared: Path) -> None:
    """Let workers make all tasks; none of a round before those of the earlier rounds are made.

    Args:
        workers: how many, and where.
        rounds: tasks that do not need one another; a task can be pickled, and its string is its name. A round is asked for when those
            before it are made, and where there is no task no worker is started.
        maker: called once in each worker, to load what tasks need; what it returns makes a task. It is pickled.
        shared: a file or folder that all of them have to see, where they write.

    Raises:
        ConfigError: Ray is not installed, there is no such cluster, or a worker sees other files, or computes on another kind of device.
        MoguError: a worker raised it, or workers were lost again and again.
    """
    with ExitStack() as stack:
        crew: Crew[TaskT] | None = None
        for tasks in rounds:
            if tasks:
                if crew is None:
                    stack.enter_context(redirect_stdout(sys.stderr))  # Ray tells of lost workers on standard output, which is for results
                    crew = stack.enter_context(Crew(workers, maker, shared.resolve()))
                crew.make(tasks)
