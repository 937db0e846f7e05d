"""The second step of a jailbreak: a question that follows the first reply, whose answer is what is judged.

Knows Inspect's solvers and the samples' metadata; knows nothing of models or judges.
"""

from __future__ import annotations

from inspect_ai.model import ChatMessageUser
from inspect_ai.solver import Generate, Solver, TaskState, solver


@solver
def follow_up() -> Solver:
    """Ask the sample's ``follow_up``, if it has one, after the reply to everything before it."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        if (question := state.metadata.get("follow_up")) is None:
            return state
        state.messages.append(ChatMessageUser(content=question))
        return await generate(state)

    return solve
