"""What MoGU adds to vLLM's OpenAI API: the field ``mogu`` of requests, and of responses.

Knows HTTP bodies; knows nothing of engines. Whether a request's values are right is decided where it enters the engine.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mogu.serving.request_settings import FIELD
from mogu.serving.scores import CURRENT_SCORES, RequestScores

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_PATHS = ("/v1/chat/completions", "/v1/completions")


class MoguMiddleware:
    """ASGI middleware around vLLM's chat and completion endpoints.

    The field ``mogu`` of a request's body becomes one of vLLM's own extra arguments. Once the prompt is read, the response
    says ``"mogu": {"score": …}``: in its body, or in the first event of a stream that comes after.

    Args:
        app: the application within.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith(_PATHS):
            await self.app(scope, receive, send)
            return
        scope, receive = await _with_extra_arguments(scope, receive)
        scores = RequestScores()
        token = CURRENT_SCORES.set(scores)
        try:
            await self.app(scope, receive, _Response(scores, send))
        finally:
            CURRENT_SCORES.reset(token)


async def _with_extra_arguments(scope: MutableMapping[str, Any], receive: _Receive) -> tuple[MutableMapping[str, Any], _Receive]:
    """The same request, with its field ``mogu`` where vLLM keeps extra arguments."""
    parts, whole = [], False
    while not whole:
        message = await receive()
        if message["type"] != "http.request":  # hung up while sending: the application is told so
            return scope, _replaying([message], receive)
        parts.append(message.get("body", b""))
        whole = not message.get("more_body", False)
    body = _moved(b"".join(parts))
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    scope = {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
    return scope, _replaying([{"type": "http.request", "body": body, "more_body": False}], receive)


def _replaying(messages: list[_Message], receive: _Receive) -> _Receive:
    async def replay() -> _Message:
        return messages.pop(0) if messages else await receive()

    return replay


def _moved(body: bytes) -> bytes:
    if f'"{FIELD}"'.encode() not in body:
        return body
    try:
        request = json.loads(body)
        wishes = request.pop(FIELD)
        request["vllm_xargs"] = {**(request.get("vllm_xargs") or {}), FIELD: json.dumps(wishes)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return body  # the word stands elsewhere, or the body is nothing that vLLM takes: it says so itself
    return json.dumps(request).encode()


class _Response:
    """Passes a response on, with the field ``mogu`` in it."""

    def __init__(self, scores: RequestScores, send: _Send) -> None:
        self.scores = scores
        self.send = send
        self.start: _Message = {}
        self.kind = ""
        self.held: list[bytes] = []
        self.told = False

    async def __call__(self, message: _Message) -> None:
        if message["type"] == "http.response.start":
            content_types = [value for name, value in message["headers"] if name.lower() == b"content-type"]
            self.kind = content_types[0].decode().split(";")[0] if content_types else ""
            self.start = message
            if self.kind != "application/json":
                await self.send(message)
        elif message["type"] != "http.response.body" or self.kind not in ("application/json", "text/event-stream"):
            await self.send(message)
        elif self.kind == "application/json":
            await self._body(message)
        else:
            await self.send({**message, "body": self._event(message.get("body", b""))})

    async def _body(self, message: _Message) -> None:
        self.held.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = _with_field(b"".join(self.held), self.scores.field)
        headers = [(name, value) for name, value in self.start["headers"] if name.lower() != b"content-length"]
        await self.send({**self.start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    def _event(self, event: bytes) -> bytes:
        field = self.scores.field
        if self.told or field is None or not event.startswith(b"data: {"):
            return event
        self.told = True
        # vLLM sends an event a message; should one come with others behind it, the first of them carries the field.
        first, separator, others = event.removeprefix(b"data: ").partition(b"\n\n")
        return b"data: " + _with_field(first, field) + separator + others


def _with_field(body: bytes, field: dict[str, Any] | None) -> bytes:
    if field is None:
        return body
    try:
        content = json.loads(body)
    except ValueError:
        return body
    return json.dumps({**content, FIELD: field}, ensure_ascii=False, separators=(",", ":")).encode() if isinstance(content, dict) else body
