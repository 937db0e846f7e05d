"""Group requests that arrive one at a time into batches: a queue, and a worker thread that answers it.

Knows defenses and threads; knows nothing of Inspect. Requests may come from any event loop, and from several defenses on the
same model; two batches never run at the same time.
"""

from __future__ import annotations

import atexit
import time
import weakref
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread

import anyio
import anyio.from_thread
import torch
from anyio.lowlevel import EventLoopToken, current_token

from mogu.defenses import DefendedReply, Defense
from mogu.errors import MoguError
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings

WINDOW = 0.02
"""Seconds that a batch with room waits for another request; each request that arrives restarts the wait.

Longer than Inspect needs to prepare another sample, since batches would run half empty otherwise."""


@dataclass(frozen=True)
class Request:
    """One conversation to reply to.

    Args:
        defense: the defense that replies.
        conversation: the conversation.
        settings: length and sampling of the reply.
        batch_size: conversations at a time, at most.
    """

    defense: Defense
    conversation: Conversation
    settings: ReplySettings
    batch_size: int

    def kind(self) -> Hashable:
        """What the requests of a batch have in common."""
        return id(self.defense), self.settings, self.batch_size


@dataclass(frozen=True)
class Answered:
    """A reply, and the batch that it was part of.

    Args:
        reply: the reply.
        seconds: wall-clock time of the whole batch.
        batch: number of conversations in the batch.
    """

    reply: DefendedReply
    seconds: float
    batch: int


@dataclass
class _Waiting:
    request: Request
    loop: EventLoopToken
    done: anyio.Event = field(default_factory=anyio.Event)
    outcome: Answered | BaseException | None = None
    given_up: bool = False


_WORKERS: weakref.WeakKeyDictionary[Thread, SimpleQueue[_Waiting | None]] = weakref.WeakKeyDictionary()


@atexit.register
def _end_workers() -> None:
    """Let workers end before the interpreter does: one that PyTorch is still tearing down then would abort the process."""
    workers = list(_WORKERS.items())
    for _, queue in workers:
        queue.put(None)
    for thread, _ in workers:
        thread.join(timeout=10)


class Batcher:
    """Answers requests in batches of one kind, in order of arrival."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        # A new thread has PyTorch's default number of threads, whatever was set in the thread that starts it.
        thread = Thread(target=_work, args=(self._queue, torch.get_num_threads()), name="mogu-batches", daemon=True)
        thread.start()
        _WORKERS[thread] = self._queue
        weakref.finalize(self, self._queue.put, None)

    async def answer(self, request: Request) -> Answered:
        """Answer one request as part of a batch.

        Raises:
            MoguError: the defense cannot reply to this conversation; the others of its batch get their replies.
            Exception: whatever else the defense raised on the batch.
        """
        waiting = _Waiting(request, current_token())
        self._queue.put(waiting)
        try:
            await waiting.done.wait()
        finally:
            waiting.given_up = True  # without effect once it is answered
        if isinstance(waiting.outcome, BaseException):
            raise waiting.outcome
        assert waiting.outcome is not None
        return waiting.outcome


def _work(queue: SimpleQueue[_Waiting | None], threads: int) -> None:
    torch.set_num_threads(threads)
    waiting: list[_Waiting] = []
    while _collect(queue, waiting):
        waiting = [item for item in waiting if not item.given_up]
        if not waiting:
            continue
        first = waiting[0].request
        alike = [item for item in waiting if item.request.kind() == first.kind()]
        batch, chosen = alike[: first.batch_size], {id(item) for item in alike[: first.batch_size]}
        waiting = [item for item in waiting if id(item) not in chosen]
        _answer(batch)
        del batch, alike, first  # otherwise their model would stay in memory while the queue is empty


def _collect(queue: SimpleQueue[_Waiting | None], waiting: list[_Waiting]) -> bool:
    """Wait for a request, then for more while they keep arriving and the first batch has room; false once the queue is closed."""
    try:
        while not waiting or sum(item.request.kind() == waiting[0].request.kind() for item in waiting) < waiting[0].request.batch_size:
            item = queue.get(timeout=WINDOW if waiting else None)
            if item is None:
                return False
            waiting.append(item)
    except Empty:
        pass
    return True


def _answer(batch: list[_Waiting]) -> None:
    _reply(batch)
    for loop in dict.fromkeys(item.loop for item in batch):
        with suppress(anyio.RunFinishedError):  # the event loop that asked has ended
            anyio.from_thread.run_sync(_wake, [item for item in batch if item.loop == loop], token=loop)


def _reply(batch: list[_Waiting]) -> None:
    request, started = batch[0].request, time.perf_counter()
    try:
        replies = request.defense.reply([item.request.conversation for item in batch], request.settings)
        seconds = time.perf_counter() - started
        for item, reply in zip(batch, replies, strict=True):
            item.outcome = Answered(reply, seconds, len(batch))
    except MoguError as error:  # one conversation is at fault and only that one fails: bisect to find it
        batch[0].outcome = error
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]) if middle else ():
            _reply(half)
    except BaseException as error:  # raised for the callers, who wait in other threads
        for item in batch:
            item.outcome = error


def _wake(batch: list[_Waiting]) -> None:
    for item in batch:
        item.done.set()
