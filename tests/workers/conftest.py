"""One Ray for all tests of workers, since it takes seconds to start; where it is not installed they are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from mogu.workers.cluster import connect, import_ray
from mogu.workers.config import Workers


@pytest.fixture(scope="session")
def ray() -> Iterator[Any]:
    """Ray on this machine, with room for two workers; commands that ask for workers use it."""
    if find_spec("ray") is None:
        pytest.skip("workers need Ray: pip install 'mogu[ray]'")
    workers = Workers(2)
    ray = import_ray(workers)
    connect(ray, workers)
    yield ray
    ray.shutdown()
