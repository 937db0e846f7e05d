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

from mogu.evaluation.inspect.errors import explained
from mogu.evaluation.inspect.metrics import shares
from mogu.lab.grading import RIGHT, LabPrompt, judge
from mogu.lab.splits import prompts


@task
def lab(split: Literal["dev", "test"] = "test") -> Task:
    """How a model treats benign, borderline and malicious requests of the lab's world, plain and in jailbreak wrappers.

    Args:
        split: whose prompts.
    """
    with explained():
        asked = prompts(split)
    from mogu.lab.measure import MAX_NEW_TOKENS  # here, since it brings PyTorch with it

    samples = [Sample(input=one.instruction, id=one.id, metadata=asdict(one)) for one in asked]
    return Task(
        dataset=MemoryDataset(samples, name=f"lab-{split}"),
        solver=generate(),
        scorer=lab_verdict(),
        config=GenerateConfig(max_tokens=MAX_NEW_TOKENS),
    )


@metric(scores="unreduced")
def right(by: str) -> Metric:
    """The share of replies with the verdict that is right for their prompt.

    Args:
        by: ``"category"``, or ``"family"`` of wrappers: malicious and benign requests in one each by themselves.
    """

    def metric(scores: list[SampleScore]) -> Value:
        if by == "category":
            return shares(scores, _is_right, name="right", by=[by])
        wrapped = {
            category: [one for one in scores if _prompt(one).category == category] for category in ("malicious_wrapped", "benign_wrapped")
        }
        return {
            label: value
            for category, some in wrapped.items()
            for label, value in shares(some, _is_right, name=f"right, {category}", by=[by]).items()
        }

    return metric


@scorer(metrics=[right(by="category"), right(by="family")])
def lab_verdict() -> Scorer:
    """What a reply did with its prompt: ``answered``, ``refused``, ``complied`` or ``other``, by :func:`mogu.lab.grading.judge`."""

    async def score(state: TaskState, target: Target) -> Score:
        prompt = LabPrompt(**{name: state.metadata[name] for name in LabPrompt.__dataclass_fields__})
        verdict = judge(prompt, state.output.completion)
        return Score(value=verdict, answer=state.output.completion, metadata={"right": verdict == RIGHT[prompt.category]})

    return score


def _prompt(one: SampleScore) -> LabPrompt:
    metadata = one.sample_metadata or {}
    return LabPrompt(**{name: metadata[name] for name in LabPrompt.__dataclass_fields__})


def _is_right(one: SampleScore) -> bool:
    return one.score.value == RIGHT[_prompt(one).category]
