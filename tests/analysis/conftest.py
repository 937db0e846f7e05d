"""The lab's base model, and some of its records."""

from __future__ import annotations

from pathlib import Path

import pytest

from mogu.data import Record
from mogu.lab import build_base, records


@pytest.fixture(scope="session")
def lab_base() -> Path:
    return build_base(progress=False)


@pytest.fixture(scope="session")
def lab_records() -> list[Record]:
    return records("train", benign=40, malicious=40)
