"""The web server of a playground: one page, and a connection to each that is open, over which wishes come and events go.

Everything that is told of in a conversation lives in the page: the server keeps none of it, so that nothing can be mixed up. Bound to this
machine: it answers to no other name, and to no page of another site. Knows HTTP and connections; knows nothing of models.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from mogu.errors import ConfigError, MoguError
from mogu.playground.jobs import Playground
from mogu.playground.room import PATIENCE, Guest, Room
from mogu.playground.wishes import MOST_CHARACTERS, Frontier, Stop, job_of, read_wish

HERE = frozenset({"127.0.0.1", "localhost", "::1"})
"""The names of this machine that the server answers to: any other one may be a page elsewhere that had it point here."""

OUTSTAYED = 4000
"""Code with which the connection of a guest is closed who has left a place unused while others waited; the page knows it."""

LARGEST_MESSAGE = 6 * MOST_CHARACTERS
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    # The browser itself sees to it that nothing is asked of anybody else.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def make_app(playground: Playground, *, places: int, patience: float = PATIENCE) -> Starlette:
    """The web application of a playground.

    Args:
        playground: what is tried out.
        places: how many people are served at once; whoever comes later waits.
        patience: seconds that somebody may ask for nothing while others wait.
    """
    room = Room(places, patience)
    threads = ThreadPoolExecutor(4 * places, thread_name_prefix="playground")

    async def visit(connection: WebSocket) -> None:
        host, origin = connection.headers.get("host", ""), connection.headers.get("origin", "")
        if not _is_here(host) or (origin and urlsplit(origin).netloc != host):
            await connection.close()
            return
        await connection.accept()
        async with room.guest() as guest:
            await _Visit(connection, guest, playground, threads).stay()

    routes = [Route(f"/{name}" if name != "index.html" else "/", partial(_serve, content, kind)) for name, kind, content in _page_files()]
    return Starlette(routes=[*routes, WebSocketRoute("/live", visit)])


def _page_files() -> list[tuple[str, str, bytes]]:
    own = [file for file in files("mogu.playground").joinpath("page").iterdir() if not file.name.startswith((".", "_"))]
    shared = files("mogu.pages").joinpath("style.css")
    return [(file.name, _TYPES["." + file.name.rpartition(".")[2]], file.read_bytes()) for file in [*own, shared]]


async def _serve(content: bytes, kind: str, request: Request) -> Response:
    if not _is_here(request.headers.get("host", "")):
        return Response("This page is for the machine that it runs on: open it as localhost.\n", 421, media_type="text/plain")
    return Response(content, media_type=kind, headers=_HEADERS)


def _is_here(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").hostname in HERE
    except ValueError:
        return False


class _Visit:
    """One open page, from its first message to its last; nothing of it goes on when it is closed."""

    def __init__(self, connection: WebSocket, guest: Guest, playground: Playground, threads: ThreadPoolExecutor) -> None:
        self._connection, self._guest, self._playground, self._threads = connection, guest, playground, threads
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._main = self._beside = threading.Event()  # of the last job, and of the last one that runs beside it

    async def stay(self) -> None:
        """Until the page is closed, or its place is given to somebody else."""
        try:
            async with anyio.create_task_group() as tasks:
                for work in (self._take_all, self._send, self._tell_place, self._make_room):
                    tasks.start_soon(self._until_gone, work, tasks.cancel_scope)
        finally:
            self._main.set()
            self._beside.set()

    async def _until_gone(self, work: Callable[[], Awaitable[None]], visit: anyio.CancelScope) -> None:
        with suppress(WebSocketDisconnect, RuntimeError, KeyError):  # Starlette's, where a page is gone or sends bytes
            await work()
            return
        visit.cancel()

    async def _take_all(self) -> None:
        while True:
            self._take(await self._connection.receive_text())

    async def _make_room(self) -> None:
        await self._guest.outstayed()
        await self._connection.close(OUTSTAYED)
        raise WebSocketDisconnect(OUTSTAYED)  # at once: a page that sleeps in the background may never answer the close

    def _take(self, text: str) -> None:
        if self._guest.ahead is not None:
            return
        self._guest.use()
        try:
            wish = read_wish(text)
        except MoguError as error:
            self._events.put_nowait({"type": "error", "message": str(error), "job": job_of(text)})
            return
        stop = threading.Event()
        if isinstance(wish, Frontier):
            self._beside.set()
            self._beside = stop
        else:
            self._main.set()
            self._main = stop
        if not isinstance(wish, Stop):
            emit = self._emit_for(wish.job)
            self._threads.submit(self._playground.run, wish, emit, stop.is_set)

    def _emit_for(self, job: int) -> Callable[[dict[str, Any]], None]:
        loop = asyncio.get_running_loop()

        def emit(event: dict[str, Any]) -> None:
            try:
                loop.call_soon_threadsafe(self._events.put_nowait, {**event, "job": job})
            except RuntimeError:  # the server has ended
                self._main.set()
                self._beside.set()

        return emit

    async def _send(self) -> None:
        while True:
            event = await self._events.get()
            self._guest.use()  # an answer that is long under way
            await self._connection.send_text(json.dumps(_rounded(event), ensure_ascii=False, separators=(",", ":")))

    async def _tell_place(self) -> None:
        while True:
            await self._guest.moved.wait()
            self._guest.moved.clear()
            ahead = self._guest.ahead
            if ahead is None:
                self._events.put_nowait({"type": "welcome", **self._playground.describe()})
                return
            self._events.put_nowait({"type": "waiting", "ahead": ahead})


def _rounded(value: Any) -> Any:
    """Numbers to six digits, which is more than is shown; JSON knows no infinities."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def open_server(playground: Playground, *, port: int, places: int, patience: float = PATIENCE) -> tuple[Any, socket.socket, str]:
    """A server of a playground on this machine alone, which listens already and answers once it is run.

    Args:
        playground: what is tried out.
        port: where; 0 takes a free one.
        places: how many people are served at once.
        patience: seconds that somebody may ask for nothing while others wait.

    Returns:
        The ``uvicorn.Server``, the socket to ``run`` it on, and the address of the page.

    Raises:
        ConfigError: the port is taken.
    """
    import uvicorn

    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"Port {port} of this machine cannot be used: {error.strerror or error}",
            expected="a free port",
            action="give another one with --port, or 0 for any",
        ) from error
    config = uvicorn.Config(
        make_app(playground, places=places, patience=patience),
        ws="wsproto",
        ws_max_size=LARGEST_MESSAGE,
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config), listening, f"http://localhost:{listening.getsockname()[1]}"
