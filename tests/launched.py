"""Starting a command of ours in several processes, by torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "src"


def torchrun(*command: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run ``-m mogu …`` or a file in several processes of this machine, on the CPU; standard error is theirs and torchrun's own."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    paths = os.pathsep.join([str(SOURCES), str(SOURCES.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    return subprocess.run([*launcher, *command], env=environment, capture_output=True, text=True, timeout=300)
