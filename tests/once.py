"""What takes long to make and many tests only read: made once a run of the tests, whichever of pytest-xdist's workers needs it first."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder ``name``, which whoever asks first lets ``make`` fill; others wait for it.

    Args:
        factory: pytest's ``tmp_path_factory``.
        name: unlike those of all others.
        make: fills the folder, which is there and empty; where it fails, the next one tries.
    """
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, done = shared / name, shared / f"{name}.done"
    with FileLock(shared / f"{name}.lock"):
        if not done.exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            done.touch()
    return folder
