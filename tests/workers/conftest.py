"""One Ray for all tests of workers, since it takes seconds to start; where it is not installed they are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from mogu.workers.cluster import connect, import_ray
from mogu.workers.config import Workers


@pytest.fixture(scope="session")
def ray() -> Iterator[Any]:
    """Ray on this machine, with room for two workers; commands that ask for workers use it."""
    pytest.importorskip("ray", reason="workers need Ray: pip install 'mogu[ray]'")
    os.environ["OMP_NUM_THREADS"] = "1"
    ray = import_ray()
    connect(ray, Workers(2))
    yield ray
    ray.shutdown()
