"""Commands that are killed end with the very bits of those that were not; training has tests of its own for every moment that matters."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.kills import prepare, survive, table


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills") / "data"
    prepare(folder)
    return folder


@pytest.mark.parametrize("command", ["build", "compare", "attack", "cache"])
def test_a_command_that_was_killed_ends_with_the_very_bits(command: str, data: Path, tmp_path: Path) -> None:
    result = survive(command, data, tmp_path, kills=2, seed=1)
    assert (result.kills, result.same, result.whole, result.clean) == (2, 2, 2, 2), result.moments
    assert f"| {result.calls} | 2 | 2 | 2 | 2 |" in table([result])
