"""Hostile files: every reader ends with an error of ours or well, soon, in little memory, and does nothing else.

Hypothesis chooses what is wrong with each file, and finds the smallest change that a reader stumbles over. A hundred thousand more inputs
are tried by ``python -m experiments.fuzz``; see docs/results/reliability.md.
"""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from experiments.fuzz.mutations import as_toml
from experiments.fuzz.readers import Reader, readers
from experiments.fuzz.seeds import write_seeds
from experiments.fuzz.watch import Outcome, Watch

hypothesis = pytest.importorskip("hypothesis", reason="the extra dev is not installed")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read where Linux has it")

EXAMPLES = 80  # of a reader of weight 1; about 2,000 of all


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ProcessPoolExecutor, Path]]:
    """A process of its own, whose limits on memory and time are none of the other tests', and which may die; and a folder for it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare) as pool:
        yield pool, tmp_path_factory.mktemp("fuzz")


def _prepare() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)


NAMES = (
    *("saved model, routed", "saved model, gated", "published routers", "base model", "GGUF", "chat template", "recipe", "setting"),
    *("records", "conversations", "instructions", "published data", "request", "openings", "tools", "detector", "robustness map"),
    *("tendency", "measurements"),
)


@cache
def _readers(folder: Path) -> dict[str, Reader]:
    return readers(write_seeds(folder / "seeds"))


@cache
def _watch(folder: Path) -> Watch:
    return Watch(folder / "one")


def _names(folder: Path) -> list[str]:
    return list(_readers(folder))


def _ends(folder: Path, name: str) -> set[str]:
    """How a reader ended on the inputs that Hypothesis chose."""
    reader, ends = _readers(folder)[name], set()

    @hypothesis.settings(
        max_examples=round(EXAMPLES * reader.weight**0.5),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(hypothesis.strategies.randoms(use_true_random=False))
    def hostile(random: Random) -> None:
        outcome = _watch(folder).try_one(reader, random)
        assert outcome.end in ("error", "success"), outcome
        ends.add(outcome.end)

    hostile()
    return ends


def test_every_reader_is_tried(elsewhere: tuple[ProcessPoolExecutor, Path]) -> None:
    pool, folder = elsewhere
    assert set(NAMES) == set(pool.submit(_names, folder).result())


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_is_one_clear_error(elsewhere: tuple[ProcessPoolExecutor, Path], name: str) -> None:
    pool, folder = elsewhere
    try:
        ends = pool.submit(_ends, folder, name).result()
    except BrokenProcessPool:
        pytest.fail(f"a file for {name!r} ended the process that read it, or one before it did")
    assert "error" in ends or name == "measurements"  # where what cannot be read is measured again


def _told(folder: Path) -> dict[str, Outcome]:
    """What the watch says of readers that do what they must not."""
    watch, outside = _watch(folder), folder / "outside"

    def told(read: Any) -> Outcome:
        return watch.try_one(Reader(lambda random, file: file.write_text("x"), read), Random(0))

    def forever(_: Path) -> None:
        while True:
            pass

    def large(_: Path) -> None:
        bytearray(700 * 2**20)[:: 2**12] = bytes(700 * 2**8)

    outcomes = {
        "reads": told(lambda file: file.read_text()),
        "divides": told(lambda file: 1 / 0),
        "writes outside": told(lambda file: outside.write_text("x")),
        "starts a program": told(lambda file: __import__("os").system("true")),
        "writes inside": told(lambda file: (file.parent / "inside").write_text("x")),
        "is large": told(large),
    }
    watch.seconds = 0.2
    outcomes["goes on forever"] = told(forever)
    watch.seconds = 2.0
    return outcomes


def test_the_watch_notices_what_it_is_there_for(elsewhere: tuple[ProcessPoolExecutor, Path]) -> None:
    pool, folder = elsewhere
    told = pool.submit(_told, folder).result()
    assert told["divides"].what.startswith("ZeroDivisionError")
    assert {name: outcome.end for name, outcome in told.items()} == {
        "reads": "success",
        "divides": "foreign",
        "writes outside": "deed",
        "starts a program": "deed",
        "writes inside": "success",
        "is large": "memory",
        "goes on forever": "hang",
    }


def test_recipes_are_written_as_toml() -> None:
    assert (
        as_toml({"a": 1, "b": {"c": [1.5, True, "x"], "d": {"e": None}}}) == '"a" = 1\n["b"]\n"c" = [1.5, true, "x"]\n"d" = {"e" = null}\n'
    )
