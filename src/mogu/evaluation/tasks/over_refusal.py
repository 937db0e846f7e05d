"""The task `mogu/over_refusal`: how often safe requests that look unsafe are refused.

Knows data sets and Inspect; replies are classified by the refusal scorer.
"""

from __future__ import annotations

from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset
from inspect_ai.scorer import Scorer, scorer
from inspect_ai.solver import generate

from mogu.evaluation.datasets import dataset_spec, read_dataset
from mogu.evaluation.inspect.errors import as_inspect_error
from mogu.evaluation.inspect.metrics import share
from mogu.evaluation.scorers import refusal
from mogu.evaluation.tasks.samples import first, sample_of


@task
def over_refusal(dataset: str = "xstest", file: str | None = None, limit: int | None = None) -> Task:
    """Measure refusals of safe prompts, overall and by type; refusals of a data set's unsafe contrasts are reported separately.

    Args:
        dataset: ``"xstest"`` or ``"or_bench"``, or any other benign set.
        file: the data set in a local file.
        limit: how many prompts.
    """
    with as_inspect_error():
        spec = dataset_spec(dataset, measures=("contrast", "benign"))
        prompts = first(read_dataset(spec, Path(file).expanduser() if file is not None else None), limit)
    samples = [sample_of(prompt) for prompt in prompts]
    return Task(dataset=MemoryDataset(samples, name=dataset), solver=generate(), scorer=refused())


@scorer(
    metrics=[
        share("over_refusal", ["full_refusal"], by=["group"], where={"kind": "benign"}),
        share("partial_over_refusal", ["partial_refusal"], by=["group"], where={"kind": "benign"}),
        share("unsafe_refused", ["full_refusal", "partial_refusal"], by=["group"], where={"kind": "malicious"}),
    ]
)
def refused() -> Scorer:
    """Classify a reply as ``full_refusal``, ``partial_refusal`` or ``compliance``."""
    return refusal()
