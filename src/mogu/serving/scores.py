"""Scores of prompts on their way out: to vLLM's metrics, and to the response of the HTTP request that they belong to.

Knows vLLM's outputs and Prometheus; knows nothing of HTTP.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from typing import Any

from prometheus_client import Counter, Histogram

from mogu.serving.request_settings import FIELD

_ROUTED_REQUESTS = Counter("mogu:routed_requests", "Requests answered by a MoGU model.", ["model_name"])
_SCORES = Histogram(
    "mogu:malicious_score",
    "Unwill share at the last prompt token, averaged over routed layers: how malicious the model finds a prompt, from 0 to 1.",
    ["model_name"],
    buckets=[number / 20 for number in range(1, 20)] + [1.0],
)


class NotedScores:
    """The scores of the prompts of one HTTP request, in their order; ``None`` until a prompt is read."""

    def __init__(self) -> None:
        self.by_prompt: list[float | None] = []

    @property
    def field(self) -> dict[str, Any] | None:
        """What the response says: ``{"score": …}``, or ``{"scores": […]}`` for several prompts; ``None`` until all are known."""
        if not self.by_prompt or None in self.by_prompt:
            return None
        return {"score": self.by_prompt[0]} if len(self.by_prompt) == 1 else {"scores": list(self.by_prompt)}


NOTED: ContextVar[NotedScores] = ContextVar("mogu_noted_scores")


def noting_scores(generate: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM's ``AsyncLLM.generate``, which counts routed requests and notes their scores for the HTTP request at hand."""

    @functools.wraps(generate)
    def noting(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        lora_request, noted = kwargs.get("lora_request"), NOTED.get(None)
        outputs = generate(*args, **kwargs)
        if lora_request is None:
            return outputs  # type: ignore[no-any-return]
        prompt = len(noted.by_prompt) if noted is not None else None
        if noted is not None:
            noted.by_prompt.append(None)
        return _noting(outputs, lora_request.lora_name, noted, prompt)

    return noting


async def _noting(
    outputs: AsyncGenerator[Any, None], model: str, noted: NotedScores | None, prompt: int | None
) -> AsyncGenerator[Any, None]:
    first = True
    try:
        async for output in outputs:
            if output.kv_transfer_params and FIELD in output.kv_transfer_params:
                score = output.kv_transfer_params.pop(FIELD)["score"]
                output.kv_transfer_params = output.kv_transfer_params or None
                if noted is not None and prompt is not None:
                    noted.by_prompt[prompt] = score
                if first:
                    _ROUTED_REQUESTS.labels(model).inc()
                    _SCORES.labels(model).observe(score)
                first = False
            yield output
    finally:
        await outputs.aclose()  # where the client is gone, vLLM has to hear of it
