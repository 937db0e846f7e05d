"""The task `mogu/lab`: every prompt of the lab's small world, judged by the world's own rules; no judge model is asked.

Knows the lab's prompts and Inspect; knows nothing of models.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
from inspect_ai.solver import TaskState, generate

from mogu.evaluation.inspect.errors import as_inspect_error
from mogu.evaluation.inspect.metrics import shares
from mogu.evaluation.prompts import EvalPrompt
from mogu.lab.grading import judge
from mogu.lab.splits import prompts


@task
def lab(split: Literal["dev", "test"] = "test") -> Task:
    """Measure how a model treats benign, borderline and malicious requests of the lab's world, plain and in jailbreak wrappers.

    Args:
        split: whose prompts.
    """
    with as_inspect_error():
        chosen = prompts(split)
    from mogu.lab.measure import MAX_NEW_TOKENS  # here, since it brings PyTorch with it

    samples = [
        Sample(input=prompt.instruction, id=prompt.id, metadata={**asdict(prompt), "family": prompt.group, "expected": prompt.expected})
        for prompt in chosen
    ]
    return Task(
        dataset=MemoryDataset(samples, name=f"lab-{split}"),
        solver=generate(),
        scorer=lab_verdict(),
        config=GenerateConfig(max_tokens=MAX_NEW_TOKENS),
    )


@metric(scores="unreduced")
def right(by: str) -> Metric:
    """Compute the share of replies with the outcome that is right for their prompt.

    Args:
        by: ``"category"``, or ``"family"`` of wrappers: malicious and benign requests in them separately.
    """

    def metric(scores: list[SampleScore]) -> Value:
        if by == "category":
            return shares(scores, _is_right, name="right", by=[by])
        wrapped = {
            category: [score for score in scores if (score.sample_metadata or {})["category"] == category]
            for category in ("malicious_wrapped", "benign_wrapped")
        }
        return {
            label: value
            for category, members in wrapped.items()
            for label, value in shares(members, _is_right, name=f"right, {category}", by=[by]).items()
        }

    return metric


@scorer(metrics=[right(by="category"), right(by="family")])
def lab_verdict() -> Scorer:
    """Judge what a reply did, ``answered``, ``refused``, ``complied`` or ``other``, by :func:`mogu.lab.grading.judge`."""

    async def score(state: TaskState, target: Target) -> Score:
        prompt = EvalPrompt.from_json(state.metadata)
        outcome = judge(prompt, state.output.completion)
        return Score(value=outcome, answer=state.output.completion, metadata={"right": outcome == prompt.expected})

    return score


def _is_right(score: SampleScore) -> bool:
    return bool(score.score.value == (score.sample_metadata or {})["expected"])
