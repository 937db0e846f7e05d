"""Starting commands of ours in several processes, by torchrun.

The last lines of this file are what torchrun runs of it where one start is to do for several commands.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mogu import processes

SOURCES = Path(__file__).parents[1] / "src"


FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
"""What `accelerate launch` tells the processes where a config asks for FSDP2."""


def torchrun(*command: str, processes: int = 2, sharded: bool = False) -> subprocess.CompletedProcess[str]:
    """Run ``-m mogu …`` or a file in several processes of this machine, on the CPU; standard error is theirs and torchrun's own.

    Args:
        command: for Python.
        processes: how many.
        sharded: whether each holds a part of the base model only.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    paths = os.pathsep.join([str(SOURCES), str(SOURCES.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths} | (FSDP if sharded else {})
    return subprocess.run([*launcher, *command], env=environment, capture_output=True, text=True, timeout=300)


def torchrun_mogu(*commands: Sequence[str], sharded: Sequence[bool]) -> subprocess.CompletedProcess[str]:
    """Run commands of ``mogu`` one after the other in the same two processes, of which one start takes longer than most commands.

    Args:
        commands: the words of each.
        sharded: of each, whether each process holds a part of the base model only.
    """
    return torchrun(__file__, json.dumps([[list(command), parts] for command, parts in zip(commands, sharded, strict=True)]))


def plan_as_one_of(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the rest of a test plan what the main one of so many processes plans that each hold a part of the base model."""
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "_group", processes._Group(0, count, None, [lambda: None]))  # it plans for all, alone


if __name__ == "__main__":
    import torch.distributed

    import mogu.cli

    torch.distributed.init_process_group("gloo")  # once: what they left of a first time in torchrun's store would confuse a second
    for command, parts in json.loads(sys.argv[1]):
        os.environ |= FSDP | {"ACCELERATE_USE_FSDP": str(parts).lower()}
        sys.argv = ["mogu", *command]
        try:
            mogu.cli.main()
        except SystemExit as end:
            if end.code:
                raise
