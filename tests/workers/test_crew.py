"""Two workers of Ray's on this machine: every task is made once, in rounds; one that is lost is replaced; errors are the command's."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mogu.errors import ConfigError, DataError, MoguError
from mogu.workers import Workers, share_out
from mogu.workers.cluster import _threads, connect
from mogu.workers.worker import Surroundings


@pytest.fixture
def folder(ray: Any, tmp_path: Path) -> Path:
    (tmp_path / "marker").touch()
    return tmp_path


def maker(folder: Path, make: Callable[[Path, str], None]) -> Callable[[str], None]:
    return partial(make, folder)


def write(folder: Path, name: str) -> None:
    """Say who made it; a second maker would be an error of Python's."""
    with (folder / name).open("x") as file:
        file.write(str(os.getpid()))


def test_each_task_is_made_once_and_after_those_of_earlier_rounds(folder: Path) -> None:
    rounds = ([f"first-{number}" for number in range(6)], [], ["second"])

    def one_by_one() -> Any:
        for number, tasks in enumerate(rounds):
            assert len(list(folder.glob("first-*"))) == (6 if number else 0)
            yield tasks

    share_out(Workers(2), one_by_one(), partial(maker, folder, write), shared=folder / "marker")
    made = {file.name: file.read_text() for file in folder.iterdir() if file.name != "marker"}
    assert set(made) == {name for tasks in rounds for name in tasks}
    assert str(os.getpid()) not in made.values()


def meet(folder: Path, name: str) -> None:
    """Wait for the other task: one worker alone would wait forever."""
    write(folder, name)
    other = folder / {"a": "b", "b": "a"}[name]
    while not other.exists():
        pass


def test_two_workers_work_at_the_same_time(folder: Path) -> None:
    share_out(Workers(2), [["a", "b"]], partial(maker, folder, meet), shared=folder / "marker")


def die_once(folder: Path, name: str) -> None:
    if name == "deadly" and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    write(folder, name)


def test_the_task_of_a_worker_that_is_killed_is_made_by_another(folder: Path) -> None:
    share_out(Workers(2), [["deadly", "a", "b", "c"]], partial(maker, folder, die_once), shared=folder / "marker")
    assert {file.name for file in folder.iterdir()} == {"marker", "died", "deadly", "a", "b", "c"}


def die(folder: Path, name: str) -> None:
    with (folder / "deaths").open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_kills_its_workers_is_given_up(folder: Path) -> None:
    with pytest.raises(MoguError, match="4 workers in turn were lost while it made deadly"):
        share_out(Workers(1), [["deadly"]], partial(maker, folder, die), shared=folder / "marker")
    assert (folder / "deaths").read_text() == "xxxx"


def refuse(folder: Path, name: str) -> None:
    raise DataError(f"There is no {name}", expected="something", action="look for it")


def cannot_begin() -> None:
    raise ConfigError("There is no plugin", expected="one", action="name another")


def test_an_error_of_a_worker_is_the_commands(folder: Path) -> None:
    with pytest.raises(DataError, match="There is no a") as caught:
        share_out(Workers(1), [["a"]], partial(maker, folder, refuse), shared=folder / "marker")
    assert caught.value.action == "look for it"
    with pytest.raises(ConfigError, match="There is no plugin"):
        share_out(Workers(1, setup=cannot_begin), [["a"]], partial(maker, folder, write), shared=folder / "marker")
    assert not (folder / "a").exists()


def fail(folder: Path, name: str) -> None:
    raise ZeroDivisionError(name)


def test_a_fault_shows_where_in_the_worker_it_was(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="in fail"):
        share_out(Workers(1), [["a"]], partial(maker, folder, fail), shared=folder / "marker")


def test_a_cluster_that_is_not_there_is_an_error_at_once() -> None:
    with socket.socket() as unused:  # a port that is taken, and where nobody listens
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"There is no Ray cluster at {address}"):
            connect(None, Workers(cluster=address))


def nothing_is_started() -> None:
    raise AssertionError


def test_without_tasks_no_worker_is_started(tmp_path: Path) -> None:
    """Nor is Ray needed."""
    share_out(Workers(2), [[], []], nothing_is_started, shared=tmp_path / "marker")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"folder": Path("/nowhere")}, "does not see /nowhere"),
        ({"shared": Path("/nowhere/marker")}, "does not see /nowhere/marker"),
        ({"version": "0.0.1"}, "mogu 0.0.1, as the command has"),
        ({"on_gpu": True}, "cannot use its GPU"),
    ],
)
def test_a_worker_somewhere_else_says_what_differs(
    changes: dict[str, Any], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    here = Surroundings.of_this_process(tmp_path)
    with pytest.raises(ConfigError, match=complaint):
        Surroundings(**{**vars(here), **changes}).enter()


@pytest.mark.parametrize(
    ("cores", "count", "threads"), [([8, 8], 2, 8), ([8, 8], 3, 4), ([8, 4], 2, 4), ([8, 4], 3, 4), ([16, 4], 2, 8), ([2], 3, 1)]
)
def test_threads_of_a_cluster_are_as_many_as_let_all_workers_fit(cores: list[int], count: int, threads: int) -> None:
    assert _threads(cores, count) == threads
