"""What runs in a worker's process. Knows whether it is in the command's place; knows nothing of Ray, nor of what it makes.

Imports no PyTorch, which reads its number of threads when it is imported.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mogu.errors import ConfigError, MoguError


@dataclass(frozen=True)
class Surroundings:
    """What a command has around it, and its workers have to have as well.

    Args:
        folder: its working directory.
        shared: a file that all see.
        on_gpu: whether it computes on a GPU.
        version: of mogu.
    """

    folder: Path
    shared: Path
    on_gpu: bool
    version: str

    @classmethod
    def of_this_process(cls, shared: Path) -> Surroundings:
        """Those of the command that asks for workers."""
        import torch

        return cls(Path.cwd(), shared, torch.cuda.is_available(), version("mogu"))

    def enter(self) -> None:
        """Go to the command's working directory, so that its relative paths mean what they mean there.

        Raises:
            ConfigError: something here is another than the command's.
        """
        if self.version != version("mogu"):
            raise _elsewhere(f"has mogu {version('mogu')}", f"mogu {self.version}, as the command has", "install that on every machine")
        for path in (self.folder, self.shared):
            if not path.exists():
                raise _elsewhere(f"does not see {path}", "a file system that all machines share", "run the command in a folder of one")
        if self.on_gpu:
            import torch

            if not torch.cuda.is_available():
                raise _elsewhere("cannot use its GPU", "PyTorch as it is where the command runs", "install that on every machine")
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.chdir(self.folder)


class Worker:
    """A worker, which Ray makes an actor of. Errors of ours are returned, since Ray would wrap what is raised.

    Args:
        number: its name.
        threads: that it computes with.
    """

    def __init__(self, number: int, threads: int) -> None:
        self._number = number
        os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(threads)
        sys.stdout = sys.stderr  # the command's standard output is for results
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # as in the command
        logger = logging.getLogger("mogu")
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO)

    def __repr__(self) -> str:
        return f"worker {self._number}"  # Ray puts it before each line that is written here

    def open(
        self, surroundings: Surroundings, setup: Callable[[], object], maker: Callable[[], Callable[[Any], object]]
    ) -> MoguError | None:
        """Load what tasks need; returns an error."""
        try:
            surroundings.enter()
            setup()
            self._make = maker()
        except MoguError as error:
            return error
        return None

    def make(self, task: Any) -> MoguError | None:
        """Make a task; returns an error."""
        try:
            self._make(task)
        except MoguError as error:
            return error
        return None


def _elsewhere(found: str, expected: str, action: str) -> ConfigError:
    return ConfigError(f"A worker on {socket.gethostname()} {found}", expected=expected, action=action)
