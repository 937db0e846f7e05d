"""Prompts of a data set as Inspect's samples.

Knows prompts and samples; knows nothing of what is made of the replies.
"""

from __future__ import annotations

from inspect_ai.dataset import Sample

from mogu.data import PromptTemplate
from mogu.errors import ConfigError
from mogu.evaluation.datasets import EvaluationPrompt

PLAIN = "none"
"""The wrapper of a prompt that has none."""


def sample_of(prompt: EvaluationPrompt, wrapper: PromptTemplate | None = None) -> Sample:
    """One sample; its metadata say what it is, for metrics to group by.

    Args:
        prompt: a prompt; its first turn is the input.
        wrapper: what goes around it.
    """
    return Sample(
        input=prompt.turns[0] if wrapper is None else wrapper.apply(prompt.turns[0]),
        id=prompt.id if wrapper is None else f"{prompt.id} {wrapper.name}",
        metadata={
            "dataset": prompt.dataset,
            "kind": prompt.kind,
            "group": prompt.group,
            "wrapper": PLAIN if wrapper is None else wrapper.name,
            "request": prompt.turns[0],
            "later_turns": list(prompt.turns[1:]),
        },
    )


def first(prompts: list[EvaluationPrompt], limit: int | None) -> list[EvaluationPrompt]:
    """The first so many prompts, or all.

    Raises:
        ConfigError: the limit is no number from 1.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ConfigError(f"limit is {limit!r}", expected="a whole number from 1", action="correct it, or leave it out for all prompts")
    return prompts[:limit]
