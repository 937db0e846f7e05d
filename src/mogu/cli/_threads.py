"""How the threads of PyTorch share a machine with other work: they sleep when they wait long, and are no more than the process may run.

OpenMP reads its settings from the environment once, when PyTorch is imported; so this is for a process of our own, and never for a
program that uses the library. Knows the operating system; knows nothing of what is computed.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")

SPINS = "2000"
"""How often a thread looks before it sleeps. Measured on two cores, one training pass of SmolLM2 alone, and beside two processes that
are never idle: 0.68 s and 1.5 s; where threads sleep at once, 0.80 s and 1.2 s; by PyTorch's default, 2.5 s in company."""


def share_the_machine(environment: MutableMapping[str, str] = os.environ, cgroups: Path = CGROUPS) -> None:
    """Set what OpenMP is to do, unless the user has set it or PyTorch is imported already.

    - By default its threads spin for milliseconds while they wait for one another. Beside other busy processes that wait lasts until the
      operating system lets the last of them run, and the others burn the very cores it needs: training becomes many times slower. Threads
      that sleep at once pay for waking up at each of the many short operations. They spin for some microseconds, which most waits last.
    - It starts a thread for each core. A container that may use less by its quota is stopped for the rest of each period.

    Args:
        environment: of this process.
        cgroups: where Linux mounts them.
    """
    if "torch" in sys.modules:
        return
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & environment.keys():
        environment["GOMP_SPINCOUNT"] = SPINS
    quota = cpu_quota(cgroups)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if "OMP_NUM_THREADS" not in environment and quota is not None and quota < cores:
        environment["OMP_NUM_THREADS"] = str(max(1, math.floor(quota)))


def cpu_quota(cgroups: Path) -> float | None:
    """The cores' worth of time that a container may use; ``None`` where there is no limit, or none that can be read."""
    try:
        if (cgroups / "cpu.max").is_file():
            quota, period = (cgroups / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        cores = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # not Linux, no such controller, or "max"
        return None
    return cores if cores > 0 else None
