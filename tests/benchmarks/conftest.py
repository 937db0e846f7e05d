"""Runs all benchmarks once, on a tiny model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.once import made_once

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of ``python -m benchmarks --quick``."""

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks", "--quick", "--device", "cpu", "--out", str(folder)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    out = made_once(tmp_path_factory, "bench-results", make)
    table = (out / "results.md").read_text(encoding="utf-8").splitlines()
    results: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert sum(line.startswith("| ") for line in table) == len(results["findings"]) + 2
    return results
