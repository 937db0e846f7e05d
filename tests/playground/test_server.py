"""The server of a playground, as a page sees it: wishes and events, stops, people who come and go, and strangers."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the packages of mogu[playground] are not installed")
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from mogu.inference.replies import ReplySettings, replies
from mogu.playground.jobs import Playground
from mogu.playground.server import OUTSTAYED, _page_files, _rounded, make_app
from mogu.playground.sides import Side

HERE, LIVE = "http://localhost:8765", "ws://localhost:8765/live"
TALK = [{"role": "user", "content": "How do I bake bread?"}]


@pytest.fixture
def playground(sides: list[Side]) -> Playground:
    return Playground(sides)


@pytest.fixture
def client(playground: Playground) -> Iterator[TestClient]:
    with TestClient(make_app(playground, places=2), base_url=HERE) as client:
        yield client


def until(page: WebSocketTestSession, *types: str) -> list[dict[str, Any]]:
    events = [page.receive_json()]
    while events[-1]["type"] not in types:
        events.append(page.receive_json())
    return events


def question(text: str, job: int = 1, **others: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": text}]
    columns = [{"column": column, "side": side, "turns": turns} for column, side in enumerate(("tiny, plain", "tiny"))]
    return {"type": "ask", "job": job, "columns": columns, "max_new_tokens": 8, **others}


def reply_to(side: Side, text: str) -> str:
    with side.model.routing("on" if side.hardened is not None else "off"):
        return replies(side.model, side.tokenizer, [text], ReplySettings(8))[0].text


def test_a_page_is_told_who_there_is_and_gets_the_answers_of_both(client: TestClient, sides: list[Side]) -> None:
    with client.websocket_connect(LIVE) as page:
        welcome = page.receive_json()
        assert welcome["type"] == "welcome"
        assert [side["name"] for side in welcome["sides"]] == ["tiny, plain", "tiny"]
        assert [attack["name"] for attack in welcome["attacks"] if attack["featured"]] == ["wrappers", "prefill", "delayed", "best_of_n"]
        page.send_json(question("Hi there", job=7))
        events = until(page, "done", "error")
    assert {event["job"] for event in events} == {7}
    assert {event["type"] for event in events} == {"why", "token", "reply", "done"}
    texts = [event["text"] for event in sorted(events, key=lambda event: event.get("column", 9)) if event["type"] == "reply"]
    assert texts == [reply_to(side, "Hi there") for side in sides]


def test_people_who_ask_at_once_do_not_mix_and_one_more_waits(client: TestClient, sides: list[Side]) -> None:
    asked = ["Hi there", "How do I bake bread?"]

    def visit(text: str, inside: threading.Barrier) -> list[str]:
        with client.websocket_connect(LIVE) as page:
            page.receive_json()
            inside.wait(20)
            told = []
            for job in range(4):
                page.send_json(question(text, job))
                events = until(page, "done")
                told += [f"{event['column']} {event['text']}" for event in events if event["type"] == "reply"]
            inside.wait(60)  # nobody leaves before the third has been told to wait
        return told

    barrier = threading.Barrier(3)
    with ThreadPoolExecutor(2) as people:
        visits = [people.submit(visit, text, barrier) for text in asked]
        barrier.wait(20)
        with client.websocket_connect(LIVE) as late:
            assert late.receive_json() == {"type": "waiting", "ahead": 0}
            late.send_json(question("Hi there"))  # not yet
            barrier.wait(60)
            assert late.receive_json()["type"] == "welcome"
    for text, done in zip(asked, visits, strict=True):
        assert sorted(done.result()) == sorted(f"{column} {reply_to(side, text)}" for column, side in enumerate(sides) for _ in range(4))


def test_a_page_that_asks_for_nothing_makes_room_for_one_that_waits(playground: Playground) -> None:
    with TestClient(make_app(playground, places=1, patience=0.2), base_url=HERE) as client, client.websocket_connect(LIVE) as forgotten:
        assert forgotten.receive_json()["type"] == "welcome"
        with client.websocket_connect(LIVE) as late:
            assert late.receive_json() == {"type": "waiting", "ahead": 0}
            with pytest.raises(WebSocketDisconnect) as closed:
                forgotten.receive_json()
            assert closed.value.code == OUTSTAYED
            assert late.receive_json()["type"] == "welcome"


def test_a_new_wish_ends_the_one_before_it_and_a_closed_page_ends_all(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    running, ended = threading.Semaphore(0), threading.Semaphore(0)

    def endless(wish: Any, emit: Callable[..., None], stopped: Callable[[], bool]) -> None:
        running.release()
        while not stopped():
            time.sleep(0.01)
        ended.release()

    monkeypatch.setattr(playground, "run", endless)
    with TestClient(make_app(playground, places=1), base_url=HERE) as client, client.websocket_connect(LIVE) as page:
        page.receive_json()
        page.send_json(question("Hi", 1))
        assert running.acquire(timeout=10)
        page.send_json(question("Hi", 2))
        assert ended.acquire(timeout=10)
        assert running.acquire(timeout=10)
        page.send_json({"type": "stop"})
        assert ended.acquire(timeout=10)
        page.send_json({"type": "frontier", "side": "tiny", "job": 3})
        page.send_json(question("Hi", 4))
        assert running.acquire(timeout=10)
        assert running.acquire(timeout=10)
        assert not ended.acquire(timeout=0.1)  # both go on side by side
        page.close()
        assert ended.acquire(timeout=10)
        assert ended.acquire(timeout=10)


def test_a_model_that_breaks_is_told_of_and_the_page_goes_on(
    client: TestClient, sides: list[Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of luck")

    with client.websocket_connect(LIVE) as page:
        page.receive_json()
        with monkeypatch.context() as broken:
            broken.setattr(type(sides[0].model), "generate", breaks)
            page.send_json(question("Hi"))
            assert until(page, "error")[-1] == {"type": "error", "message": "The model failed: RuntimeError: out of luck", "job": 1}
        page.send_json(question("Hi", 2))
        assert until(page, "done", "error")[-1] == {"type": "done", "stopped": False, "job": 2}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("{", "Invalid JSON"),
        ('{"type": "dance", "job": 5}', "dance"),
        ('{"type": "ask", "job": 5, "columns": []}', "columns"),
        ('{"type": "ask", "job": 5, "columns": [{"column": 0, "side": "x", "turns": [{"role": "system", "content": "a"}]}]}', "role"),
        ('{"type": "ask", "job": 5, "columns": [{"column": 0, "side": "x", "turns": [{"role": "user", "content": "a"}]}]}', "no side 'x'"),
        ('{"type": "attack", "job": 5, "name": "magic", "request": "a", "sides": ["tiny"]}', "no attack 'magic'"),
        ('{"type": "file", "job": 5, "name": "a.pdf", "text": "a", "sides": ["tiny"]}', r"a\.pdf ends in"),
    ],
)
def test_what_a_page_may_not_send_is_refused_in_words(client: TestClient, message: str, words: str) -> None:
    with client.websocket_connect(LIVE) as page:
        page.receive_json()
        page.send_text(message)
        event = until(page, "error")[-1]
        assert event["job"] == (None if message == "{" else 5)
        assert re.search(words, event["message"])
        page.send_json(question("Hi"))
        assert until(page, "done", "error")[-1]["type"] == "done"


@pytest.mark.parametrize(
    "headers", [{"origin": "https://example.org"}, {"host": "example.org"}, {"host": "example.org", "origin": "http://example.org"}]
)
def test_pages_of_other_sites_are_not_answered(client: TestClient, headers: dict[str, str]) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(LIVE, headers=headers):
        pass
    if "host" in headers:
        assert client.get("/", headers=headers).status_code == 421


def test_the_page_names_nobody_else(client: TestClient) -> None:
    page = client.get("/", headers={"host": "127.0.0.1:9000"})
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    names = {name for name, _, _ in _page_files()}
    linked = set(re.findall(r'(?:src|href)="/([^"]+)"', page.text)) | {
        name for _, _, content in _page_files() for name in re.findall(r'from "\./([^"]+)"', content.decode())
    }
    assert linked <= names
    assert names <= linked | {"index.html"}
    for name, kind, content in _page_files():
        text = content.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text
        assert "https:" not in text
        assert client.get("/" if name == "index.html" else f"/{name}").headers["content-type"].startswith(kind)
    assert client.get("/../pyproject.toml").status_code == 404


def test_numbers_are_short_and_json_has_no_infinities() -> None:
    assert _rounded({"a": (0.12345678, float("nan")), "b": [1, True, "x"]}) == {"a": [0.123457, None], "b": [1, True, "x"]}
