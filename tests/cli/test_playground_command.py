"""`mogu playground`: what it says where it cannot begin; that it serves is tested with its server and in a browser."""

from __future__ import annotations

import importlib.util
import re
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

RunMogu = Callable[..., tuple[int, str, str]]


def test_missing_packages_are_named(run_mogu: RunMogu, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("mogu.cli.playground.find_spec", lambda name: None if name == "wsproto" else find_spec(name))
    code, _, err = run_mogu("playground", "somewhere")
    assert code == 2
    assert "The playground needs wsproto" in err
    assert "pip install 'mogu[playground]'" in err


def test_a_port_that_is_taken_is_named(saved_model: Path, run_mogu: RunMogu) -> None:
    pytest.importorskip("uvicorn", reason="the packages of mogu[playground] are not installed")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, _, err = run_mogu("playground", saved_model, "--port", str(port))
    assert code == 2
    assert f"Port {port} of this machine cannot be used" in err
    assert "--port" in err


def test_it_says_where_it_is(saved_model: Path, run_mogu: RunMogu, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvicorn", reason="the packages of mogu[playground] are not installed")
    run: list[Any] = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: run.append(SimpleNamespace(config=self.config, sockets=sockets)))
    code, out, err = run_mogu("playground", saved_model, "--port", "0", "--places", "3")
    assert code == 0, err
    ((host, port),) = [listening.getsockname() for listening in run[0].sockets]
    assert host == "127.0.0.1"
    assert re.search(rf"http://localhost:{port}\b", out)
    for listening in run[0].sockets:
        listening.close()


def test_a_defense_that_is_unknown_is_named(saved_model: Path, run_mogu: RunMogu) -> None:
    code, _, err = run_mogu("playground", saved_model, "--defense", "magic")
    assert code == 2
    assert "There is no defense 'magic'" in err
