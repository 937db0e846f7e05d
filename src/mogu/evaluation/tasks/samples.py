"""Make Inspect's samples of the prompts of a data set.

Knows prompts and samples; knows nothing of what is made of the replies.
"""

from __future__ import annotations

from inspect_ai.dataset import Sample

from mogu.data import PromptTemplate
from mogu.errors import ConfigError
from mogu.evaluation.prompts import EvalPrompt

PLAIN = "none"
"""The wrapper name of a plain prompt."""


def sample_of(prompt: EvalPrompt, wrapper: PromptTemplate | None = None) -> Sample:
    """Make a sample whose metadata say what it is, for metrics to group by.

    Args:
        prompt: a plain prompt of one message.
        wrapper: what to put around it.
    """
    return Sample(
        input=prompt.request if wrapper is None else wrapper.apply(prompt.request),
        id=prompt.id if wrapper is None else f"{prompt.id} {wrapper.name}",
        metadata={
            "dataset": prompt.dataset,
            "kind": "malicious" if prompt.is_malicious else "benign",
            "group": prompt.group,
            "wrapper": PLAIN if wrapper is None else wrapper.name,
            "request": prompt.request,
            "later_turns": list(prompt.later_turns),
            "follow_up": None if wrapper is None else wrapper.follow_up,
        },
    )


def first(prompts: list[EvalPrompt], limit: int | None) -> list[EvalPrompt]:
    """Take the first prompts, at most ``limit``; ``None`` takes all.

    Raises:
        ConfigError: the limit is no number from 1.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ConfigError(f"limit is {limit!r}", expected="a whole number from 1", action="correct it, or leave it out for all prompts")
    return prompts[:limit]
