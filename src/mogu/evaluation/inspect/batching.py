"""Batches out of requests that arrive one by one: a queue, and one worker that answers it.

Knows defenses and threads; knows nothing of Inspect. Requests may come from any event loop, and of several defenses on the
same model: never do two batches run at once.
"""

from __future__ import annotations

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
"""Seconds that a batch with room waits for one more request; a request that comes starts the wait anew.

Longer than Inspect needs to get one more sample ready, or batches would run half empty."""


@dataclass(frozen=True)
class Request:
    """One conversation to answer.

    Args:
        defense: who answers.
        conversation: what is answered.
        settings: how.
        batch_size: conversations at a time, at most.
    """

    defense: Defense
    conversation: Conversation
    settings: ReplySettings
    batch_size: int

    def kind(self) -> Hashable:
        """What requests of one batch have in common."""
        return id(self.defense), self.settings, self.batch_size


@dataclass(frozen=True)
class Answered:
    """A reply with what only the batch knows.

    Args:
        reply: the reply.
        seconds: time on the clock that its whole batch took.
        batch: how many conversations were answered with it.
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


class Batcher:
    """Answers requests in batches of one kind, in the order in which they came."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        # A thread starts with PyTorch's default number of threads, whatever was set in the one that makes it.
        thread = Thread(target=_work, args=(self._queue, torch.get_num_threads()), name="mogu-batches", daemon=True)
        thread.start()
        weakref.finalize(self, self._queue.put, None)

    async def answer(self, request: Request) -> Answered:
        """The answer to one request, when its batch is through.

        Raises:
            MoguError: the defense cannot answer this conversation; others of its batch are answered.
            Exception: whatever else the defense raised on the batch.
        """
        waiting = _Waiting(request, current_token())
        self._queue.put(waiting)
        try:
            await waiting.done.wait()
        finally:
            waiting.given_up = True  # of no account once it is answered
        if isinstance(waiting.outcome, BaseException):
            raise waiting.outcome
        assert waiting.outcome is not None
        return waiting.outcome


def _work(queue: SimpleQueue[_Waiting | None], threads: int) -> None:
    torch.set_num_threads(threads)
    waiting: list[_Waiting] = []
    while _collect(queue, waiting):
        waiting = [one for one in waiting if not one.given_up]
        if not waiting:
            continue
        first = waiting[0].request
        alike = [one for one in waiting if one.request.kind() == first.kind()]
        batch, chosen = alike[: first.batch_size], {id(one) for one in alike[: first.batch_size]}
        waiting = [one for one in waiting if id(one) not in chosen]
        _answer(batch)
        del batch, alike, first  # or their model would live on while the queue is empty


def _collect(queue: SimpleQueue[_Waiting | None], waiting: list[_Waiting]) -> bool:
    """Wait for work, then as long as it keeps coming and the first batch has room; false when there will be no more."""
    try:
        while not waiting or sum(one.request.kind() == waiting[0].request.kind() for one in waiting) < waiting[0].request.batch_size:
            one = queue.get(timeout=WINDOW if waiting else None)
            if one is None:
                return False
            waiting.append(one)
    except Empty:
        pass
    return True


def _answer(batch: list[_Waiting]) -> None:
    _reply(batch)
    for loop in dict.fromkeys(one.loop for one in batch):
        with suppress(anyio.RunFinishedError):  # whoever asked has gone
            anyio.from_thread.run_sync(_wake, [one for one in batch if one.loop == loop], token=loop)


def _reply(batch: list[_Waiting]) -> None:
    request, started = batch[0].request, time.perf_counter()
    try:
        replies = request.defense.reply([one.request.conversation for one in batch], request.settings)
        seconds = time.perf_counter() - started
        for one, reply in zip(batch, replies, strict=True):
            one.outcome = Answered(reply, seconds, len(batch))
    except MoguError as error:  # one conversation's fault, which ends that one alone: halves find it
        batch[0].outcome = error
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]) if middle else ():
            _reply(half)
    except BaseException as error:  # it belongs to those who wait: this thread has no one to tell
        for one in batch:
            one.outcome = error


def _wake(batch: list[_Waiting]) -> None:
    for one in batch:
        one.done.set()
