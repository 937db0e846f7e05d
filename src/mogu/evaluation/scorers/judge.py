"""Asking a judge model for numbers, and what becomes of a sample when it gives none: unscored, and counted as that.

Knows Inspect's models; knows nothing of what is judged. Every judged score is a mapping of numbers and of ``unscored``, which is 1 where
the numbers are missing (NaN, which Inspect leaves out of every metric) and else 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from inspect_ai.model import ChatMessage, GenerateConfig, Model, get_model
from inspect_ai.scorer import Metric, SampleScore, Score, Value, mean, metric, stderr
from tenacity import RetryError

UNSCORED = "unscored"
GRADER = "grader"
"""The role of the judge, where a scorer names no model."""


@dataclass(frozen=True)
class Asking:
    """How a judge is asked.

    Args:
        timeout: seconds that one attempt may take.
        retries: attempts after the first one, where an attempt takes too long or the judge's server says to try again.
        max_tokens: tokens of its answer.
    """

    timeout: int
    retries: int
    max_tokens: int

    def config(self, judge: Model) -> GenerateConfig:
        """Greedy, and bounded in time: without a number of retries Inspect would try for ever."""
        bounds = GenerateConfig(max_tokens=self.max_tokens, attempt_timeout=self.timeout, max_retries=self.retries)
        # Inspect's hf provider always samples, and Transformers samples at no temperature of 0.
        greedy = GenerateConfig(top_k=1) if str(judge).startswith("hf/") else GenerateConfig(temperature=0.0)
        return bounds.merge(greedy)


@metric
def total() -> Metric:
    """How many samples have the value 1; over epochs, the sum of their shares."""

    def metric(scores: list[SampleScore]) -> Value:
        return sum(one.score.as_float() for one in scores)

    return metric


def judged_metrics(names: Sequence[str], unscored: Sequence[str] = (UNSCORED,)) -> dict[str, list[Metric]]:
    """Mean and standard error of each number, over scored samples alone; the number and the share of unscored samples.

    Args:
        names: of the numbers.
        unscored: of what says that numbers are missing.
    """
    return {name: [mean(), stderr()] for name in names} | {name: [total(), mean()] for name in unscored}


def grader(model: str | Model | None) -> Model:
    """The judge: a model by its Inspect name, or the one in the role ``grader``; never the model that is being judged by default.

    Raises:
        Exception: Inspect's own, where no model is named and none has the role.
    """
    return get_model(model) if model is not None else get_model(role=GRADER, required=True)


async def ask(
    judge: Model,
    messages: Sequence[ChatMessage],
    asking: Asking,
    read: Callable[[str], Mapping[str, float] | None],
    names: Sequence[str],
    *,
    answer: str,
) -> Score:
    """A judge's numbers on one sample.

    Args:
        judge: the model.
        messages: what it is asked.
        asking: how.
        read: its answer as numbers by name, or ``None`` where it is not of the form that was asked for.
        names: of the numbers.
        answer: the reply that is judged, for the log.
    """
    try:
        output = await judge.generate(list(messages), config=asking.config(judge))
    except (RetryError, TimeoutError) as error:
        return unscored(names, f"The judge gave no answer within {asking.timeout} s, {asking.retries + 1} attempt(s): {error}", answer)
    if output.stop_reason == "content_filter":
        return unscored(names, f"The judge refused: {output.completion}", answer)
    numbers = read(output.completion)
    if numbers is None:
        return unscored(names, f"The judge's answer is not of the form asked for: {output.completion}", answer)
    return Score(value={**numbers, UNSCORED: 0}, answer=answer, explanation=output.completion)


def unasked(numbers: Mapping[str, float], reason: str, answer: str) -> Score:
    """A score that needs no judge."""
    return Score(value={**numbers, UNSCORED: 0}, answer=answer, explanation=reason)


def unscored(names: Sequence[str], reason: str, answer: str) -> Score:
    """A score without numbers."""
    value: dict[str, str | int | float | bool | None] = dict.fromkeys(names, float("nan"))
    return Score(value=value | {UNSCORED: 1}, answer=answer, explanation=reason, reason="grader_failed")
