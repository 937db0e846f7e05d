"""Hostile files: every reader ends with an error of ours or well, soon, in little memory, and does nothing else.

Hypothesis chooses what is wrong with each file, and finds the smallest change that a reader stumbles over. A hundred thousand more inputs
are tried by ``python -m experiments.fuzz``; see docs/results/reliability.md.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from experiments.fuzz.mutations import as_toml
from experiments.fuzz.readers import Reader, readers
from experiments.fuzz.seeds import write_seeds
from experiments.fuzz.watch import Outcome, Watch

hypothesis = pytest.importorskip("hypothesis", reason="the extra dev is not installed")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read where Linux has it")

EXAMPLES = 70  # of a reader of weight 1; about 2,000 of all


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return readers(write_seeds(tmp_path_factory.mktemp("seeds")))


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Watch:
    return Watch(tmp_path_factory.mktemp("fuzz") / "one")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


NAMES = (
    *("saved model, routed", "saved model, gated", "published routers", "base model", "GGUF", "chat template", "recipe", "setting"),
    *("records", "conversations", "instructions", "published data", "request", "openings", "tools", "detector", "robustness map"),
    *("tendency", "measurements"),
)


def test_every_reader_is_tried(made: dict[str, Reader]) -> None:
    assert set(NAMES) == set(made)


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_is_one_clear_error(made: dict[str, Reader], watch: Watch, name: str) -> None:
    reader = made[name]
    ends = set()

    @hypothesis.settings(
        max_examples=round(EXAMPLES * reader.weight**0.5),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(hypothesis.strategies.randoms(use_true_random=False))
    def hostile(random: Random) -> None:
        outcome = watch.try_one(reader, random)
        assert outcome.end in ("error", "success"), outcome
        ends.add(outcome.end)

    hostile()
    assert "error" in ends or name == "measurements"  # where what cannot be read is measured again


def told(watch: Watch, read: Any) -> Outcome:
    return watch.try_one(Reader(lambda random, file: file.write_text("x"), read), Random(0))


def test_the_watch_notices_what_it_is_there_for(watch: Watch, tmp_path: Path) -> None:
    def forever(_: Path) -> None:
        while True:
            pass

    def large(_: Path) -> None:
        bytearray(700 * 2**20)[:: 2**12] = bytes(700 * 2**8)

    assert told(watch, lambda file: file.read_text()).end == "success"
    assert told(watch, lambda file: 1 / 0).what.startswith("ZeroDivisionError")
    assert told(watch, lambda file: (tmp_path / "outside").write_text("x")).end == "deed"
    assert told(watch, lambda file: __import__("os").system("true")).end == "deed"
    assert told(watch, lambda file: (file.parent / "inside").write_text("x")).end == "success"
    watch.seconds = 0.2
    try:
        assert told(watch, forever).end == "hang"
    finally:
        watch.seconds = 2.0
    assert told(watch, large).end == "memory"


def test_recipes_are_written_as_toml() -> None:
    assert (
        as_toml({"a": 1, "b": {"c": [1.5, True, "x"], "d": {"e": None}}}) == '"a" = 1\n["b"]\n"c" = [1.5, true, "x"]\n"d" = {"e" = null}\n'
    )
