"""The task `mogu/usability`: how good replies to ordinary requests are, by a judge model.

Knows data sets and Inspect; replies are rated by the usability scorer.
"""

from __future__ import annotations

from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset
from inspect_ai.model import ChatMessageUser
from inspect_ai.solver import Generate, Solver, TaskState, chain, generate, solver

from mogu.errors import DataError
from mogu.evaluation import scorers
from mogu.evaluation.datasets import dataset_spec, read_dataset
from mogu.evaluation.inspect.errors import as_inspect_error
from mogu.evaluation.scorers.usability import TURNS
from mogu.evaluation.tasks.samples import first, sample_of


@task
def usability(dataset: str = "just_eval", judge: str | None = None, file: str | None = None, limit: int | None = None) -> Task:
    """Rate helpfulness, clarity, factuality, depth and engagement from 1 to 5, without a reference answer; MT-bench turn by turn.

    Args:
        dataset: ``"just_eval"`` or ``"mt_bench"``, or any other benign set.
        judge: the Inspect model that rates; by default the one in the role ``grader``.
        file: the data set in a local file.
        limit: how many prompts.
    """
    with as_inspect_error():
        spec = dataset_spec(dataset, measures=("benign",))
        prompts = first(read_dataset(spec, Path(file).expanduser() if file is not None else None), limit)
        turns = sorted({1 + len(prompt.later_turns) for prompt in prompts})
        if turns not in ([1], [len(TURNS)]):
            raise DataError(
                f"The prompts of {dataset} have {' or '.join(map(str, turns))} turns",
                expected=f"one turn each, or {len(TURNS)} each, as MT-bench has",
                action="split the file, or correct the rows",
            )
    return Task(
        dataset=MemoryDataset([sample_of(prompt) for prompt in prompts], name=dataset),
        solver=chain(generate(), later_turns()),
        scorer=scorers.usability(judge) if turns == [1] else scorers.usability_by_turn(judge),
    )


@solver
def later_turns() -> Solver:
    """Ask a sample's later turns, each after the replies to all before it."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        for turn in state.metadata["later_turns"]:
            state.messages.append(ChatMessageUser(content=turn))
            state = await generate(state)
        return state

    return solve
