"""What MoGU adds to vLLM's OpenAI API: the field ``mogu`` of requests and of responses, and the refusals of a locked server.

Knows HTTP; knows nothing of engines. Whether the field's values are right is decided where a request enters the engine, and
what a locked server accepts in :mod:`mogu.serving.locked_requests`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mogu.errors import ConfigError, LockedError
from mogu.serving.lock import ADMITTED, is_locked
from mogu.serving.locked_requests import CHAT, check_chat, check_path
from mogu.serving.request_settings import FIELD
from mogu.serving.scores import CURRENT_SCORES, RequestScores

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
# Exactly these, which vLLM asks for a key under: a longer path that ends like them would be read before any key is checked.
_PATHS = (CHAT, "/v1/completions")
MOST_BYTES = 16 * 2**20
"""The longest body of a request, in bytes: room for some four million tokens of English text."""


class MoguMiddleware:
    """ASGI middleware around vLLM's chat and completion endpoints, within vLLM's check of the API key.

    The field ``mogu`` of a request's body becomes one of vLLM's own extra arguments. Once the prompt is read, the response
    says ``"mogu": {"score": …}``: in its body, or in the first event of a stream that comes after. A locked server takes
    requests at few other endpoints, and only such as leave the answer to the model.

    Args:
        app: the application within.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        path = _route(scope)
        served = scope["type"] == "http" and scope["method"] == "POST" and path in _PATHS
        try:
            locked = is_locked()
            if locked:
                check_path(scope["type"], scope.get("method", ""), path)
            if served:
                scope, receive = await _with_body(scope, receive, _checked if locked else _moved)
        except _TooLong as error:
            await _refuse(scope, send, 413, str(error), None)
        except LockedError as error:
            await _refuse(scope, send, 400, str(error), error.parameter)
        except ConfigError as error:  # nobody can say whether the server is locked: then it answers nothing
            await _refuse(scope, send, 500, str(error), None)
        else:
            if served:
                await self._answer(scope, receive, send, admitted=locked)
            else:
                await self.app(scope, receive, send)

    async def _answer(self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send, *, admitted: bool) -> None:
        scores = RequestScores()
        token, admission = CURRENT_SCORES.set(scores), ADMITTED.set(admitted)
        try:
            await self.app(scope, receive, _Response(scores, send))
        finally:
            CURRENT_SCORES.reset(token)
            ADMITTED.reset(admission)


class _TooLong(Exception):
    """A body of more than ``MOST_BYTES``."""


def _route(scope: MutableMapping[str, Any]) -> str:
    """The path that vLLM's routes are matched with: without the prefix under which the server is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


async def _read(scope: MutableMapping[str, Any], receive: _Receive) -> bytes | None:
    """The body of a request, of which no more than ``MOST_BYTES`` are kept; ``None`` where the client hangs up before its end."""
    declared = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
    too_long = _TooLong(f"The body of the request is longer than {MOST_BYTES} bytes. Send a shorter conversation.")
    if declared and declared[0].isdigit() and int(declared[0][:20]) > MOST_BYTES:
        raise too_long
    body, whole = bytearray(), False
    while not whole:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            raise too_long
        whole = not message.get("more_body", False)
    return bytes(body)


async def _with_body(
    scope: MutableMapping[str, Any], receive: _Receive, change: Callable[[bytes], bytes]
) -> tuple[MutableMapping[str, Any], _Receive]:
    """The same request with its body read and changed; where the client hangs up before its end, the application is told so."""
    body = await _read(scope, receive)
    if body is None:
        messages: list[_Message] = [{"type": "http.disconnect"}]
    else:
        body = change(body)
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in (b"content-length", b"transfer-encoding")]
        scope = {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}

    async def replay() -> _Message:
        return messages.pop(0) if messages else await receive()

    return scope, replay


def _moved(body: bytes) -> bytes:
    """The body, with its field ``mogu`` where vLLM keeps extra arguments."""
    if f'"{FIELD}"'.encode() not in body:
        return body
    try:
        request = json.loads(body)
        wishes = request.pop(FIELD)
        request["vllm_xargs"] = {**(request.get("vllm_xargs") or {}), FIELD: json.dumps(wishes)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return body  # the word stands elsewhere, or the body is nothing that vLLM takes: it says so itself
    return json.dumps(request).encode()


def _checked(body: bytes) -> bytes:
    """The body as it was checked, written anew: what another reader might make of the original does not matter then.

    Raises:
        LockedError: a locked server does not take it.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise LockedError(
            f"This server is locked, and the request's body is not JSON that can be checked ({type(error).__name__})",
            expected='an object with "model" and "messages"',
            action="correct the body",
        ) from error
    check_chat(request)
    return json.dumps(request).encode()


async def _refuse(scope: MutableMapping[str, Any], send: _Send, status: int, message: str, parameter: str | None) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": message[:100]})
        return
    error = {"message": message, "type": "invalid_request_error" if status < 500 else "server_error", "param": parameter, "code": status}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


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
