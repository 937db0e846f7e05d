"""The fixture `judging`: score replies through Inspect, with judges that say what a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from inspect_ai import Task
from inspect_ai import eval as inspect_eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import ChatMessageUser, Model, ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import Scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver


def said(text: str, **more: Any) -> ModelOutput:
    output = ModelOutput.from_content("mockllm/model", text, **more)
    output.usage = ModelUsage()  # or Inspect would count tokens with a table from the network
    return output


def judge(*answers: str | ModelOutput) -> Model:
    """A judge that gives these answers in turn."""
    return get_model("mockllm/model", custom_outputs=[said(one) if isinstance(one, str) else one for one in answers], memoize=False)


def always(text: str) -> Model:
    """A judge that gives this answer to everything."""
    return get_model("mockllm/model", custom_outputs=lambda *_: said(text), memoize=False)


def listening(text: str, heard: list[str]) -> Model:
    """A judge that gives this answer to everything, and writes down what it is shown."""

    def answer(messages: list[Any], *_: Any) -> ModelOutput:
        heard.append(messages[-1].text)
        return said(text)

    return get_model("mockllm/model", custom_outputs=answer, memoize=False)


def slow_at(call: int, text: str) -> Model:
    """A judge that gives this answer to everything, but takes half a minute for one call, counted from 1."""
    calls = 0

    async def answer(*_: Any) -> ModelOutput:
        nonlocal calls
        calls += 1
        if calls == call:
            await anyio.sleep(30)
        return said(text)

    return get_model("mockllm/model", custom_outputs=answer, memoize=False)


@solver
def asking(*later: str) -> Solver:
    """Asks the sample's input, then these turns."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state = await generate(state)
        for turn in later:
            state.messages.append(ChatMessageUser(content=turn))
            state = await generate(state)
        return state

    return solve


def run(
    scorer: Scorer,
    replies: Sequence[str],
    tmp_path: Path,
    *,
    samples: Sequence[Sample] | None = None,
    later: Sequence[str] = (),
    **options: Any,
) -> EvalLog:
    """Score replies through Inspect, one after the other, each sample's later turns after its first."""
    samples = samples or [Sample(input="Please do this.", id=number) for number in range(len(replies))]
    task = Task(dataset=MemoryDataset(list(samples)), solver=asking(*later), scorer=scorer)
    options = {"display": "none", "log_dir": str(tmp_path), "max_samples": 1, "max_connections": 1} | options
    (log,) = inspect_eval(task, model=judge(*replies), **options)
    assert log.status == "success", log.error
    return log


def values(log: EvalLog) -> list[Any]:
    assert log.samples is not None
    return [next(iter((sample.scores or {}).values())).value for sample in log.samples]


def metrics(log: EvalLog) -> dict[str, dict[str, float]]:
    assert log.results is not None
    return {score.name: {name: metric.value for name, metric in score.metrics.items()} for score in log.results.scores}


@pytest.fixture(scope="session")
def judging() -> SimpleNamespace:
    """The functions of this file."""
    return SimpleNamespace(
        said=said, judge=judge, always=always, listening=listening, slow_at=slow_at, run=run, values=values, metrics=metrics
    )
