"""Additions to vLLM's OpenAI-compatible API: the field ``mogu`` of requests and responses, and the refusals of a locked server.

Knows HTTP; knows nothing of engines. The values of the field are validated where a request enters the engine, and
:mod:`mogu.serving.locked_requests` decides what a locked server accepts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache, partial
from typing import Any

from mogu.errors import ConfigError, LockedError
from mogu.serving.access import ADMITTED, HOLDS_KEY, Shown, access, holds_key
from mogu.serving.locked_requests import CHAT, check_chat, check_path
from mogu.serving.request_settings import FIELD
from mogu.serving.scores import CURRENT_SCORES, LISTENED, RequestScores
from mogu.serving.similar import WINDOW, limit_of_environment

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
# Compared as a whole: vLLM checks API keys at these paths, but not at longer ones that end in the same way.
_PATHS = (CHAT, "/v1/completions")
_LOOKS_LIKE_A_MARK = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
MAX_BODY_BYTES = 16 * 2**20
"""Maximum size of a request body, in bytes: about four million tokens of English text."""


class MoguMiddleware:
    """ASGI middleware around vLLM's chat and completion endpoints; it runs after vLLM has checked the API key.

    The field ``mogu`` of a request body is moved into vLLM's own extra arguments. The response gets ``"mogu": {"score": …}``,
    in its body or, when streaming, in the first event after the prompt has been read; while somebody listens to the answer, each event
    gets ``"mogu": {"listened": …}``. A locked server accepts few other endpoints, and only requests that leave the reply to the model.

    Args:
        app: the ASGI application to wrap.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app
        self.similar = limit_of_environment()

    async def __call__(self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
        """Handle one request, as specified by ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        path = _route(scope)
        is_served = scope["type"] == "http" and scope["method"] == "POST" and path in _PATHS
        try:
            granted = access()
            locked, key = granted.locked, holds_key(_header(scope, b"authorization"))
            if locked:
                check_path(scope["type"], scope.get("method", ""), path)
            if is_served:
                change = partial(_checked_body, special_tokens=_special_tokens(scope)) if locked else _with_extra_arguments
                scope, receive = await _with_body(scope, receive, lambda body: self._admitted(scope, change(body)))
        except _BodyTooLong as error:
            await _refuse(scope, send, 413, str(error), None)
        except _TooSimilar as error:
            await _refuse(scope, send, 429, str(error), None)
        except LockedError as error:
            await _refuse(scope, send, 400, str(error), error.parameter)
        except ConfigError as error:  # it is unknown whether the server is locked, so it must not reply
            await _refuse(scope, send, 500, str(error), None)
        else:
            if is_served:
                await self._serve(scope, receive, send, admitted=locked, holds_key=key, shown=granted.scores)
            else:
                await self.app(scope, receive, send)

    def _admitted(self, scope: MutableMapping[str, Any], body: bytes) -> bytes:
        if self.similar is not None:
            client = scope.get("client")
            caller = _header(scope, b"authorization") or str(client[0] if client else "")
            if not self.similar.admits(caller, _asked_text(body)):
                raise _TooSimilar(
                    f"Nearly the same prompt came {self.similar.limit} times within {WINDOW / 60:g} minutes. Ask something else, or later."
                )
        return body

    async def _serve(
        self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send, *, admitted: bool, holds_key: bool, shown: Shown
    ) -> None:
        scores = RequestScores()
        token, admission, holding = CURRENT_SCORES.set(scores), ADMITTED.set(admitted), HOLDS_KEY.set(holds_key)
        try:
            await self.app(scope, receive, send if shown == "none" else _Response(scores, send, coarse=shown == "coarse"))
        finally:
            CURRENT_SCORES.reset(token)
            ADMITTED.reset(admission)
            HOLDS_KEY.reset(holding)


class _BodyTooLong(Exception):
    """The body of a request is longer than ``MAX_BODY_BYTES``."""


class _TooSimilar(Exception):
    """A caller has asked nearly the same thing too often."""


def _asked_text(body: bytes) -> str:
    """The last message of the user, or the prompt; of a body that cannot be read, all of it."""
    try:
        request = json.loads(body)
        messages = request.get("messages")
        asked = messages[-1]["content"] if messages else request.get("prompt")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return body.decode("utf-8", "replace")
    return asked if isinstance(asked, str) else json.dumps(asked)


def _route(scope: MutableMapping[str, Any]) -> str:
    """Return the path that vLLM matches its routes with, without the prefix under which the server is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _header(scope: MutableMapping[str, Any], name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope.get("headers", ()) if key.lower() == name), "")


async def _read(scope: MutableMapping[str, Any], receive: _Receive) -> bytes | None:
    """Read the body of a request, up to ``MAX_BODY_BYTES``; ``None`` if the client disconnects before its end."""
    declared = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
    too_long = _BodyTooLong(f"The body of the request is longer than {MAX_BODY_BYTES} bytes. Send a shorter conversation.")
    if declared and declared[0].isdigit() and int(declared[0][:20]) > MAX_BODY_BYTES:
        raise too_long
    body, is_complete = bytearray(), False
    while not is_complete:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise too_long
        is_complete = not message.get("more_body", False)
    return bytes(body)


async def _with_body(
    scope: MutableMapping[str, Any], receive: _Receive, change: Callable[[bytes], bytes]
) -> tuple[MutableMapping[str, Any], _Receive]:
    """Read and change the body of a request; if the client disconnects before its end, pass the disconnection on."""
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


def _with_extra_arguments(body: bytes) -> bytes:
    """Move the field ``mogu`` of a body into vLLM's extra arguments."""
    if f'"{FIELD}"'.encode() not in body:
        return body
    try:
        request = json.loads(body)
        _move_settings(request)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return body  # not a field, or a body that vLLM itself will refuse
    return json.dumps(request).encode()


def _move_settings(request: dict[str, Any]) -> None:
    overrides = request.pop(FIELD)
    request["vllm_xargs"] = {**(request.get("vllm_xargs") or {}), FIELD: json.dumps(overrides)}


def _checked_body(body: bytes, special_tokens: frozenset[str]) -> bytes:
    """Check a body and serialize what was checked, so that no other parser can read the original differently.

    Raises:
        LockedError: a locked server does not accept the request.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise LockedError(
            f"This server is locked, and the request's body is not JSON that can be checked ({type(error).__name__})",
            expected='an object with "model" and "messages"',
            action="correct the body",
        ) from error
    check_chat(request, special_tokens)
    if FIELD in request:
        _move_settings(request)
    return json.dumps(request).encode()


def _special_tokens(scope: MutableMapping[str, Any]) -> frozenset[str]:
    """The texts that the served model's tokenizer reads as tokens of its own; none where there is no engine behind the application."""
    engine = getattr(getattr(scope.get("app"), "state", None), "engine_client", None)
    return frozenset() if engine is None else special_tokens(engine.get_tokenizer())


@lru_cache(maxsize=4)
def special_tokens(tokenizer: Any) -> frozenset[str]:
    """The marks among a tokenizer's tokens: its special ones, and those added to it that look like one, such as ``</think>``."""
    added = {text for text in tokenizer.get_added_vocab() if _LOOKS_LIKE_A_MARK.fullmatch(text)}
    return frozenset(text for text in (*tokenizer.all_special_tokens, *added) if text.strip())


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
    """Send a response with the field ``mogu`` added to it; coarse scores are tenths."""

    def __init__(self, scores: RequestScores, send: _Send, *, coarse: bool) -> None:
        self.scores = scores
        self.coarse = coarse
        self.send = send
        self.start: _Message = {}
        self.content_type = ""
        self.body_parts: list[bytes] = []
        self.field_sent = False

    async def __call__(self, message: _Message) -> None:
        if message["type"] == "http.response.start":
            content_types = [value for name, value in message["headers"] if name.lower() == b"content-type"]
            self.content_type = content_types[0].decode().split(";")[0] if content_types else ""
            self.start = message
            if self.content_type != "application/json":
                await self.send(message)
        elif message["type"] != "http.response.body" or self.content_type not in ("application/json", "text/event-stream"):
            await self.send(message)
        elif self.content_type == "application/json":
            await self._send_json(message)
        else:
            await self.send({**message, "body": self._event_with_field(message.get("body", b""))})

    def _field(self) -> dict[str, Any] | None:
        field = self.scores.field
        if field is None or not self.coarse:
            return field
        return {name: _coarse(value) for name, value in field.items()}

    async def _send_json(self, message: _Message) -> None:
        self.body_parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = _with_field(b"".join(self.body_parts), self._field())
        headers = [(name, value) for name, value in self.start["headers"] if name.lower() != b"content-length"]
        await self.send({**self.start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    def _event_with_field(self, event: bytes) -> bytes:
        field = self._field()
        if field is not None and self.field_sent:
            field = {name: value for name, value in field.items() if name == LISTENED}
        if not field or not event.startswith(b"data: {"):
            return event
        self.field_sent = True
        # vLLM sends one event per message; if there are several, the first one gets the field.
        first, separator, rest = event.removeprefix(b"data: ").partition(b"\n\n")
        return b"data: " + _with_field(first, field) + separator + rest


def _coarse(value: Any) -> Any:
    return list(map(_coarse, value)) if isinstance(value, list) else round(value, 1)


def _with_field(body: bytes, field: dict[str, Any] | None) -> bytes:
    if field is None:
        return body
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(content, dict):
        return body
    escaped = b"\\u" in body  # perhaps half of a surrogate pair, which only JSON can write
    return json.dumps({**content, FIELD: field}, ensure_ascii=escaped, separators=(",", ":")).encode()
