"""The workers of one command: each is dealt a task at a time, and one that is lost is replaced. Knows Ray's actors; knows no task."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from mogu.errors import MoguError
from mogu.progress import progress_bars
from mogu.workers.cluster import connect, first_line, import_ray, share_of
from mogu.workers.config import Workers
from mogu.workers.worker import Surroundings, Worker

TaskT = TypeVar("TaskT", bound=Hashable)

MOST_LOST = 3
"""How many workers may be lost over one task: more than that are not lost by chance."""

logger = logging.getLogger(__name__)


class Crew(Generic[TaskT]):
    """Workers from a command's first task to its last, within a ``with`` block. Where Ray runs already in this process, it is used.

    Args:
        workers: how many, and where.
        maker: what each calls once; it returns what makes a task.
        shared: a file that all of them have to see.

    Raises:
        ConfigError: Ray is not installed, or cannot be used as asked.
    """

    def __init__(self, workers: Workers, maker: Callable[[], Callable[[TaskT], object]], shared: Path) -> None:
        self._ray, self._workers = import_ray(workers), workers
        self._opening = (Surroundings.of_this_process(shared), workers.setup, maker)
        self._owns_ray = not self._ray.is_initialized()
        self._started = 0
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, TaskT | None]] = {}
        """By what will answer for it: a worker with its task, or with ``None`` while it opens."""

    def __enter__(self) -> Crew[TaskT]:
        try:
            if self._owns_ray:
                connect(self._ray, self._workers)
            self._share = share_of(self._ray, self._workers)
        except BaseException:
            self.__exit__()
            raise
        logger.info("Workers: %d; threads of each: %d", self._share.count, self._share.threads)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            self._ray.kill(worker)
        if self._owns_ray:
            self._ray.shutdown()

    def make(self, tasks: Sequence[TaskT]) -> None:
        """Make tasks that do not need one another.

        Raises:
            MoguError: a worker raised it, or too many were lost over one task.
        """
        waiting, lost, made = deque(tasks), Counter[TaskT | None](), 0
        while len(self._idle) + len(self._busy) < min(self._share.count, len(tasks)):
            self._start()
        with progress_bars() as bars:
            bar = bars.add_task("made by workers", total=len(tasks), note="")
            while made < len(tasks):
                while self._idle and waiting:
                    worker, next_task = self._idle.pop(), waiting.popleft()
                    self._busy[worker.make.remote(next_task)] = (worker, next_task)
                worker, task, gone = self._next_answer()
                if gone is None:
                    self._idle.append(worker)
                    made += task is not None
                    bars.update(bar, completed=made)
                    continue
                lost[task] += 1
                self._replace(task, lost[task], gone)
                if task is not None:
                    waiting.appendleft(task)

    def _next_answer(self) -> tuple[Any, TaskT | None, Exception | None]:
        """Wait for a worker that is done or lost: it, its task, and how it was lost."""
        (answer,), _ = self._ray.wait(list(self._busy))
        worker, task = self._busy.pop(answer)
        try:
            error = self._ray.get(answer)
        except self._ray.exceptions.RayTaskError:
            raise  # not one of ours: its traceback is the worker's
        except self._ray.exceptions.RayError as gone:
            self._ray.kill(worker)  # it may be out of reach only
            return worker, task, gone
        if error is not None:
            self._idle.append(worker)
            raise error
        return worker, task, None

    def _start(self) -> None:
        self._started += 1
        actor = self._ray.remote(Worker).options(num_cpus=self._share.threads, num_gpus=self._share.gpus)
        worker = actor.remote(self._started, self._share.threads)
        self._busy[worker.open.remote(*self._opening)] = (worker, None)

    def _replace(self, task: TaskT | None, times: int, gone: Exception) -> None:
        when = "while it started" if task is None else f"while it made {task}"
        if times > MOST_LOST:
            raise MoguError(
                f"{times} workers in turn were lost {when}; of the last one Ray says: {first_line(gone)}",
                expected="workers that live; where memory runs out, the operating system or Ray ends them",
                action="run with fewer workers, or look after the machines; the same command goes on from here",
            ) from gone
        logger.warning("A worker was lost %s, and another one takes its place: %s", when, first_line(gone))
        self._start()
