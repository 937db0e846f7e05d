"""A folder in which the first tutorial was followed: where the blocks of other pages, and the examples, run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, run_page
from tests.once import made_once

FIRST = ROOT / "docs" / "tutorials" / "harden.md"


@pytest.fixture(scope="session")
def after_first_tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as the tutorial leaves it; shared, so to be copied."""
    return made_once(tmp_path_factory, "tutorial", lambda folder: run_page(FIRST, folder))


@pytest.fixture
def tutorial(after_first_tutorial: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(after_first_tutorial, tmp_path / "work"))
