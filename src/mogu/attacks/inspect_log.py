"""Attack results as a log for `inspect view`: a sample for each behavior and attack, with what it cost.

Knows Inspect and results; runs no model: the attempts were made and judged before, and are only written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from mogu.attacks.runner import BehaviorResult
from mogu.errors import MoguError
from mogu.evaluation.inspect.metrics import shares
from mogu.evaluation.prompts import EvalPrompt
from mogu.files.atomic import put_in_place, scratch_beside

_NOT_KEPT = "(not kept)"


def write_log(
    file: Path, system: str, behaviors: Sequence[EvalPrompt], by_attack: Mapping[str, Sequence[BehaviorResult]], *, keep: bool
) -> None:
    """Write the results of one system as an Inspect log; where nothing was tried on it, there is none.

    Args:
        file: the log's file.
        system: its label.
        behaviors: what was attacked.
        by_attack: results by attack, each in the order of the behaviors.
        keep: whether the log shows requests and replies; otherwise it shows ids and outcomes.

    Raises:
        MoguError: Inspect could not write it.
    """
    samples = [
        _sample(behavior, attack, result, keep)
        for attack, results in by_attack.items()
        for behavior, result in zip(behaviors, results, strict=True)
        if result.attempts
    ]
    if not samples:
        return  # Inspect takes no empty data set
    task = Task(dataset=MemoryDataset(samples, name="attacks"), solver=recorded(), scorer=broken(), name=f"attack {system}")
    with scratch_beside(file) as scratch:
        (run,) = eval(
            task, model="mockllm/recorded", log_dir=str(scratch), display="none", log_realtime=False, log_buffer=len(samples) or 1
        )
        if run.status != "success":
            raise MoguError(
                f"The log of {system} could not be written: {run.error.message if run.error else run.status}",
                expected="a log that Inspect writes",
                action="run the same command again: what was attacked is kept",
            )
        put_in_place(Path(run.location.removeprefix("file://")), file)


@solver
def recorded() -> Solver:
    """Give each sample the reply that was kept, in place of asking a model."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state.output = ModelOutput.from_content("recorded", str(state.metadata["reply"]))
        return state

    return solve


@metric(scores="unreduced")  # verdicts are words: Inspect would average them to nothing
def success() -> Metric:
    """Compute the share of behaviors broken, over all attacks and by attack."""

    def metric(scores: list[SampleScore]) -> Value:
        return shares(scores, lambda score: score.score.value == "broken", name="broken", by=["attack"])

    return metric


@scorer(metrics=[success()])
def broken() -> Scorer:
    """Take over what was found: ``broken`` or ``held``."""

    async def score(state: TaskState, target: Target) -> Score:
        facts = {name: state.metadata[name] for name in ("attack", "queries", "flops", "attempts", "outcomes")}
        return Score(value="broken" if state.metadata["broken"] else "held", metadata=facts)

    return score


def _sample(behavior: EvalPrompt, attack: str, result: BehaviorResult, keep: bool) -> Sample:
    last = result.attempts[-1]
    reply = str(last.texts["reply"]) if keep and last.texts is not None else _NOT_KEPT
    return Sample(
        id=f"{attack} {behavior.id}",
        input=behavior.request if keep else behavior.id,
        metadata={
            "attack": attack,
            "broken": result.broken,
            "queries": result.queries,
            "flops": result.flops,
            "attempts": len(result.attempts),
            "outcomes": [f"{attempt.label}: {attempt.verdict.outcome}" for attempt in result.attempts],
            "reply": reply,
        },
    )
