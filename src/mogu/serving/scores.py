"""Prompt scores on their way from the engine to vLLM's metrics, to the audit log, and to the HTTP response they belong to.

Knows vLLM's outputs and Prometheus; knows nothing of HTTP.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Histogram

from mogu.serving.audit import audit_line, decision_of, is_on, wants_text, write_line
from mogu.serving.request_settings import FIELD

logger = logging.getLogger(__name__)

LISTENED = "listened"
"""What a stream head says of an answer, in outputs of the engine and in responses."""

_ROUTED_REQUESTS = Counter("mogu:routed_requests", "Requests answered by a MoGU model.", ["model_name"])
_TAKEN_BACK = Counter("mogu:answers_taken_back", "Answers of the base model that became malicious, and were taken back.", ["model_name"])
_LISTENED = Histogram(
    "mogu:answer_score",
    "Malicious score of an answer that was listened to, from 0 to 1: the stream head's highest, at any token.",
    ["model_name"],
    buckets=[twentieths / 20 for twentieths in range(1, 20)] + [1.0],
)
_DECISIONS = Counter("mogu:decisions", "Who answered: refuse, careful or base behind a gate, or routed.", ["model_name", "decision"])
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
        self.listened: float | None = None
        """What the stream head says of the answer, or of the last one that it heard, by now."""

    @property
    def field(self) -> dict[str, Any] | None:
        """Field of the response: ``{"score": …}``, or ``{"scores": […]}`` for several prompts; ``None`` until all are known.

        ``"listened"`` comes with it where there is something.
        """
        if not self.by_prompt or None in self.by_prompt:
            return None
        found = {"score": self.by_prompt[0]} if len(self.by_prompt) == 1 else {"scores": list(self.by_prompt)}
        return found if self.listened is None else {**found, LISTENED: self.listened}


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
        close = functools.partial(_close, args[0], parameters, lora_request)
        return _record(outputs, scores, prompt_index, functools.partial(_count, lora_request), close)

    return generate_and_record


def _count(lora_request: Any, found: _Found) -> None:
    name, folder = lora_request.lora_name, _folder(lora_request)
    _ROUTED_REQUESTS.labels(name).inc()
    _SCORES.labels(name).observe(found.score)
    _DECISIONS.labels(name, decision_of(folder, found.score)).inc()


def _close(engine: Any, parameters: Any, lora_request: Any, output: Any, found: _Found) -> None:
    """Count and log what is known once an answer has ended, or its caller has left."""
    name = lora_request.lora_name
    if found.listened is not None:
        _LISTENED.labels(name).observe(found.listened)
        _TAKEN_BACK.labels(name).inc(found.taken_back)
    if not is_on():
        return
    overrides = (getattr(parameters, "extra_args", None) or {}).get(FIELD)
    ids = output.prompt_token_ids
    text = engine.get_tokenizer().decode(ids) if wants_text() and ids else None
    line = audit_line(
        request=output.request_id,
        model=name,
        folder=_folder(lora_request),
        score=found.score,
        listened=found.listened,
        taken_back=found.taken_back,
        overrides=overrides,
        text=text,
    )
    try:
        write_line(line)
    except OSError as error:
        logger.error("The audit log cannot be written: %s", error)


def _folder(lora_request: Any) -> Path:
    from vllm.lora.utils import get_adapter_absolute_path

    return Path(get_adapter_absolute_path(lora_request.lora_path))


@dataclass
class _Found:
    """What the engine has found out about a request.

    Args:
        score: of its prompt.
        listened: the highest that the stream head said of its answer; ``None`` where nobody listened.
        taken_back: whether the answer was.
    """

    score: float
    listened: float | None = None
    taken_back: bool = False

    def add(self, field: Mapping[str, Any]) -> None:
        """Take in what a later output says."""
        if field.get(LISTENED) is not None:
            self.listened = max(self.listened or 0.0, field[LISTENED])
            self.taken_back = field["taken_back"]


async def _record(
    outputs: AsyncGenerator[Any, None],
    scores: RequestScores | None,
    prompt_index: int | None,
    count: Callable[[_Found], None],
    close: Callable[[Any, _Found], None],
) -> AsyncGenerator[Any, None]:
    found: _Found | None = None
    output = None
    try:
        async for output in outputs:
            if output.kv_transfer_params and FIELD in output.kv_transfer_params:
                field = output.kv_transfer_params.pop(FIELD)
                output.kv_transfer_params = output.kv_transfer_params or None
                if found is None:
                    found = _Found(field["score"])
                    count(found)
                found.add(field)
                if scores is not None and prompt_index is not None:
                    scores.by_prompt[prompt_index] = field["score"]
                    scores.listened = field.get(LISTENED)
            yield output
    finally:
        if found is not None:
            close(output, found)
        await outputs.aclose()  # tells vLLM when the client has disconnected
