"""Ask a judge model for ratings; a sample without ratings is unscored, and counted as such.

Knows Inspect's models; knows nothing of what is rated. Every judged score maps names to ratings and has ``unscored``, which is 1 where
the ratings are missing (NaN, which Inspect leaves out of every metric) and 0 otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from inspect_ai.model import ChatMessage, GenerateConfig, Model, get_model
from inspect_ai.scorer import Metric, SampleScore, Score, Value, mean, metric, stderr
from tenacity import RetryError

UNSCORED = "unscored"
GRADER = "grader"
"""The role of the judge, for scorers that name no model."""


@dataclass(frozen=True)
class Asking:
    """Limits on a request to a judge.

    Args:
        timeout: seconds per attempt.
        retries: attempts after the first, when one takes too long or the judge's server asks to try again.
        max_tokens: tokens of the answer.
    """

    timeout: int
    retries: int
    max_tokens: int

    def config(self, judge: Model) -> GenerateConfig:
        """Greedy decoding, bounded in time: without a number of retries Inspect would try forever."""
        bounds = GenerateConfig(max_tokens=self.max_tokens, attempt_timeout=self.timeout, max_retries=self.retries)
        # Inspect's hf provider always samples, and Transformers samples at no temperature of 0.
        greedy = GenerateConfig(top_k=1) if str(judge).startswith("hf/") else GenerateConfig(temperature=0.0)
        return bounds.merge(greedy)


@metric
def total() -> Metric:
    """Count the samples with the value 1; over epochs, sum their shares."""

    def metric(scores: list[SampleScore]) -> Value:
        return sum(score.score.as_float() for score in scores)

    return metric


def judged_metrics(names: Sequence[str], unscored: Sequence[str] = (UNSCORED,)) -> dict[str, list[Metric]]:
    """Make the metrics of judged scores: mean and standard error of each rating over scored samples, number and share of unscored ones.

    Args:
        names: the ratings.
        unscored: the keys that mark samples without ratings.
    """
    return {name: [mean(), stderr()] for name in names} | {name: [total(), mean()] for name in unscored}


def grader(model: str | Model | None) -> Model:
    """Get the judge: a model by its Inspect name, or the one in the role ``grader``; never the model under test by default.

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
    """Ask a judge to rate a sample.

    Args:
        judge: the model.
        messages: the prompt.
        asking: limits on the request.
        read: parses the answer into ratings by name; ``None`` if it has another form.
        names: the ratings.
        answer: the reply that is rated, for the log.
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
    """Make a score that needs no judge."""
    return Score(value={**numbers, UNSCORED: 0}, answer=answer, explanation=reason)


def unscored(names: Sequence[str], reason: str, answer: str) -> Score:
    """Make a score without ratings."""
    value: dict[str, str | int | float | bool | None] = dict.fromkeys(names, float("nan"))
    return Score(value=value | {UNSCORED: 1}, answer=answer, explanation=reason, reason="grader_failed")
