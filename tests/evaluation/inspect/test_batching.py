"""The queue behind the provider: who is answered with whom, and what becomes of errors and of those who left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Event

import anyio
import pytest

from mogu.defenses import DefendedReply, Defense, TargetModel
from mogu.errors import DataError, MoguError
from mogu.evaluation.inspect.batching import Answered, Batcher, Request
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings


@pytest.fixture(scope="module")
def target(lab_base: Path) -> TargetModel:
    return TargetModel.load(lab_base)


class Echo:
    """Answers each conversation with its own words, and remembers every batch; "wait" is answered when the gate opens."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = Event()

    def __call__(self, conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
        words = [conversation[0]["content"] for conversation in conversations]
        if words == ["wait"]:
            assert self.gate.wait(timeout=30)
        else:
            self.batches.append(words)
        if "refuse" in words:
            raise DataError("This cannot be answered", expected="another word", action="ask something else")
        if "fail" in words:
            raise ArithmeticError("as asked")
        return [DefendedReply(f"{word} {settings.max_new_tokens}", 1, True) for word in words]


class Asker:
    """Makes requests to one :class:`Echo`."""

    def __init__(self, target: TargetModel) -> None:
        self.echo = Echo()
        self.defense = Defense("echo", {}, target, self.echo)

    def __call__(self, word: str, tokens: int = 1, batch_size: int = 3) -> Request:
        return Request(self.defense, [{"role": "user", "content": word}], ReplySettings(tokens), batch_size)


def answers(batcher: Batcher, requests: list[Request], waiter: Asker) -> list[Answered | Exception]:
    """Outcomes of requests that all stand in the queue before the first of them is looked at."""
    results: dict[int, Answered | Exception] = {}

    async def one(number: int, request: Request) -> None:
        try:
            results[number] = await batcher.answer(request)
        except (ArithmeticError, MoguError) as error:
            results[number] = error

    async def all_of_them() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(batcher.answer, waiter("wait", batch_size=1))
            for number, request in enumerate(requests):
                group.start_soon(one, number, request)
            await anyio.sleep(0.1)
            waiter.echo.gate.set()

    anyio.run(all_of_them)
    return [results[number] for number in range(len(requests))]


@pytest.fixture
def asker(target: TargetModel) -> Asker:
    return Asker(target)


def test_batches_hold_one_kind_in_order_and_no_more_than_they_may(asker: Asker) -> None:
    words = ["a", "b", ("x", 2), "c", "d", ("y", 2), "e"]
    given = answers(Batcher(), [asker(*word) if isinstance(word, tuple) else asker(word) for word in words], asker)
    assert [one.reply.text for one in given] == ["a 1", "b 1", "x 2", "c 1", "d 1", "y 2", "e 1"]
    assert asker.echo.batches == [["a", "b", "c"], ["x", "y"], ["d", "e"]]
    assert [one.batch for one in given] == [3, 3, 2, 3, 2, 2, 2]


def test_defenses_are_not_mixed_though_they_share_the_queue(target: TargetModel, asker: Asker) -> None:
    other = Asker(target)
    answers(Batcher(), [asker("a"), other("b"), asker("c")], asker)
    assert (asker.echo.batches, other.echo.batches) == ([["a", "c"]], [["b"]])


def test_an_error_reaches_its_own_batch_and_the_queue_goes_on(asker: Asker) -> None:
    batcher = Batcher()
    given = answers(batcher, [asker(word, batch_size=2) for word in ("a", "fail", "b")], asker)
    assert [isinstance(one, ArithmeticError) for one in given] == [True, True, False]
    [again] = answers(batcher, [asker("c")], asker)  # and from another event loop
    assert again.reply.text == "c 1"


def test_a_fault_of_ours_is_its_own_conversations_alone(asker: Asker) -> None:
    words = ["a", "b", "refuse", "c", "d", "refuse"]
    given = answers(Batcher(), [asker(word, batch_size=6) for word in words], asker)
    assert [one.reply.text if isinstance(one, Answered) else type(one).__name__ for one in given] == [
        "a 1",
        "b 1",
        "DataError",
        "c 1",
        "d 1",
        "DataError",
    ]
    # Halves of halves: what answers is answered together where no fault is in it.
    assert [batch for batch in asker.echo.batches if "refuse" not in batch] == [["a"], ["b"], ["c"], ["d"]]


def test_who_left_is_not_answered(asker: Asker) -> None:
    batcher = Batcher()

    async def leave() -> None:
        with anyio.move_on_after(0):
            await batcher.answer(asker("gone"))
        assert (await batcher.answer(asker("here"))).batch == 1

    anyio.run(leave)
    assert asker.echo.batches == [["here"]]


def test_other_event_loops_are_served(asker: Asker) -> None:
    pytest.importorskip("trio")
    assert anyio.run(Batcher().answer, asker("a"), backend="trio").reply.text == "a 1"
