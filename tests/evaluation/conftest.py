"""The lab's base model, a saved MoGU model on it with random responders, and Inspect kept quiet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from mogu.lab import build_base
from tests.lab_models import save_random_model
from tests.once import made_once


@pytest.fixture(scope="session")
def lab_base() -> Path:
    return build_base(progress=False)


@pytest.fixture(scope="session")
def lab_mogu(lab_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Responders and routers drawn at random: strong enough to change replies, so that a defense that is not applied is noticed."""
    return save_random_model(tmp_path_factory.mktemp("evaluation") / "model", lab_base, strength=0.3)


@pytest.fixture(scope="session")
def log_lines() -> Callable[[], AbstractContextManager[list[str]]]:
    """``with log_lines() as lines`` collects what mogu logs, a line for each record."""

    @contextmanager
    def collect() -> Iterator[list[str]]:
        lines: list[str] = []
        handler = logging.Handler(logging.INFO)
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger("mogu")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield lines
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)

    return collect


@pytest.fixture(autouse=True)
def quiet_logs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))
    monkeypatch.delenv("MOGU_DATA_DIR", raising=False)


@pytest.fixture(scope="session")
def brief_training() -> tuple[str, ...]:
    """Settings of the reproduction on the lab that train a little only."""
    return (
        "glad.epochs=1",
        "unwill.epochs=3",
        "router.epochs=2",
        "choice.checkpoints=[1.0]",
        "choice.weight_penalties=[0.25]",
        "choice.dials=[-0.5]",
    )


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory, brief_training: tuple[str, ...]) -> Path:
    """The paper's experiment on the lab, in half a minute: trained a little, measured on few prompts."""
    from mogu.reproduction import Reproduction, reproduce

    def make(folder: Path) -> None:
        reproduce(Reproduction("vicuna-7b", folder / "out", base="lab", limit=2, shifts=(1.0,), settings=brief_training))

    return made_once(tmp_path_factory, "reproduction", make) / "out"
