"""Prompt scores on their way from the engine to vLLM's metrics, to the audit log, and to the HTTP response they belong to.

Knows vLLM's outputs and Prometheus; knows nothing of HTTP.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Histogram

from mogu.serving.audit import audit_line, decision_of, is_on, wants_text, write_line
from mogu.serving.request_settings import FIELD

logger = logging.getLogger(__name__)

_ROUTED_REQUESTS = Counter("mogu:routed_requests", "Requests answered by a MoGU model.", ["model_name"])
_DECISIONS = Counter("mogu:decisions", "Who answered: refuse or base behind a gate, or routed.", ["model_name", "decision"])
_SCORES = Histogram(
    "mogu:malicious_score",
    "Malicious score of a prompt, from 0 to 1: the unwill share at its last token, averaged over routed layers.",
    ["model_name"],
    buckets=[twentieths / 20 for twentieths in range(1, 20)] + [1.0],
)


class RequestScores:
    """Scores of the prompts of one HTTP request, in their order; ``None`` for prompts that have not been read yet."""

    def __init__(self) -> None:
        self.by_prompt: list[float | None] = []

    @property
    def field(self) -> dict[str, Any] | None:
        """Field of the response: ``{"score": …}``, or ``{"scores": […]}`` for several prompts; ``None`` until all are known."""
        if not self.by_prompt or None in self.by_prompt:
            return None
        return {"score": self.by_prompt[0]} if len(self.by_prompt) == 1 else {"scores": list(self.by_prompt)}


CURRENT_SCORES: ContextVar[RequestScores] = ContextVar("mogu_current_scores")
"""Where the scores of the HTTP request that is being answered are recorded."""


def record_scores(generate: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``AsyncLLM.generate`` so that it counts routed requests and records their scores for the current HTTP request."""

    signature = inspect.signature(generate)

    @functools.wraps(generate)
    def generate_and_record(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        lora_request, scores = kwargs.get("lora_request"), CURRENT_SCORES.get(None)
        outputs = generate(*args, **kwargs)
        if lora_request is None:
            return outputs  # type: ignore[no-any-return]
        prompt_index = len(scores.by_prompt) if scores is not None else None
        if scores is not None:
            scores.by_prompt.append(None)
        parameters = signature.bind(*args, **kwargs).arguments.get("sampling_params")
        return _record(outputs, scores, prompt_index, functools.partial(_count, args[0], parameters, lora_request))

    return generate_and_record


def _count(engine: Any, parameters: Any, lora_request: Any, output: Any, score: float) -> None:
    from vllm.lora.utils import get_adapter_absolute_path

    name, folder = lora_request.lora_name, Path(get_adapter_absolute_path(lora_request.lora_path))
    _ROUTED_REQUESTS.labels(name).inc()
    _SCORES.labels(name).observe(score)
    _DECISIONS.labels(name, decision_of(folder, score)).inc()
    if not is_on():
        return
    overrides = (getattr(parameters, "extra_args", None) or {}).get(FIELD)
    ids = output.prompt_token_ids
    text = engine.get_tokenizer().decode(ids) if wants_text() and ids else None
    line = audit_line(request=output.request_id, model=name, folder=folder, score=score, overrides=overrides, text=text)
    try:
        write_line(line)
    except OSError as error:
        logger.error("The audit log cannot be written: %s", error)


async def _record(
    outputs: AsyncGenerator[Any, None], scores: RequestScores | None, prompt_index: int | None, count: Callable[[Any, float], None]
) -> AsyncGenerator[Any, None]:
    is_first = True
    try:
        async for output in outputs:
            if output.kv_transfer_params and FIELD in output.kv_transfer_params:
                score = output.kv_transfer_params.pop(FIELD)["score"]
                output.kv_transfer_params = output.kv_transfer_params or None
                if scores is not None and prompt_index is not None:
                    scores.by_prompt[prompt_index] = score
                if is_first:
                    count(output, score)
                is_first = False
            yield output
    finally:
        await outputs.aclose()  # tells vLLM when the client has disconnected
