"""Ray itself: connect to it, and what of its machines is each worker's. Knows Ray, cores and GPUs; knows nothing of tasks."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from dataclasses import dataclass
from math import ceil
from typing import Any

from mogu.errors import ConfigError
from mogu.workers.config import Workers

_OBJECT_STORE = 2**27
"""Bytes in which Ray keeps what it passes on. Tasks are small, and by default it would take a third of the memory."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """What is each worker's.

    Args:
        count: how many workers there are.
        threads: that each computes with.
        gpus: for each; a half is one that two workers share.
    """

    count: int
    threads: int
    gpus: float


def import_ray(workers: Workers) -> Any:
    """Ray, set up for such workers by environment variables, which it reads when it is imported. Those that the user has set come first.

    Raises:
        ConfigError: it is not installed.
    """
    settings = {"RAY_COLOR_PREFIX": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    settings["RAY_DEDUP_LOGS"] = "0"  # lines that differ in their numbers alone are of different cells
    if workers.cluster is None and "ray" not in sys.modules:
        # It listens on every interface, and runs what is sent by whoever has its token, which it would leave in the home folder.
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "Ray is not installed", expected="Ray, by which workers share the work", action="pip install 'mogu[ray]'"
        ) from error
    return ray


def connect(ray: Any, workers: Workers) -> None:
    """Start Ray on this machine, or join a cluster.

    Raises:
        ConfigError: there is no such cluster.
    """
    if workers.cluster is None:
        import torch

        cores = max(workers.count or 1, torch.get_num_threads())
        ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=_OBJECT_STORE, logging_level=logging.ERROR)
        return
    try:
        _knock(workers.cluster)
        ray.init(workers.cluster, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"There is no Ray cluster at {workers.cluster}: {first_line(error)}",
            expected="auto, where `ray start` made this machine a part of one, or HOST:PORT",
            action="run `ray start --head` on one machine and `ray start --address HOST:PORT` on the others",
        ) from error


def _knock(address: str) -> None:
    """Look whether anybody is at ``HOST:PORT``; Ray itself would wait for minutes.

    Raises:
        OSError: nobody is.
    """
    host, separator, port = address.rpartition(":")
    if separator and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def share_of(ray: Any, workers: Workers) -> Share:
    """Divide this machine's threads among the workers, or find how many threads so many workers can have on a cluster's machines.

    Workers compute on what the command computes on: where it has a GPU, each of them has one, and otherwise they have none.

    Raises:
        ConfigError: the command has a GPU, and the cluster has none.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    if workers.cluster is None:
        count = workers.count or 1
        gpus = 1 / ceil(count / torch.cuda.device_count()) if on_gpu else 0
        return Share(count, max(1, torch.get_num_threads() // count), gpus)
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    if on_gpu and not gpus:
        raise ConfigError(
            "The cluster has no GPU, and this machine has one",
            expected="workers that compute on what the command computes on",
            action="run the command on a machine of the cluster",
        )
    if gpus and not on_gpu:
        logger.warning("The cluster's GPUs stay idle: this machine has none, and workers compute on what the command computes on.")
    machines = [machine for machine in machines if machine.get("GPU") or not on_gpu]
    count = workers.count or (gpus if on_gpu else len(machines))
    return Share(count, _threads([int(machine.get("CPU", 0)) for machine in machines], count), 1 if on_gpu else 0)


def _threads(cores: list[int], count: int) -> int:
    """The most threads that each of so many workers can have on machines of so many cores; 1 where they are too many."""
    return next((threads for threads in range(max(cores), 0, -1) if sum(number // threads for number in cores) >= count), 1)


def first_line(error: BaseException) -> str:
    """The first line of what an error says; Ray's go on for a page."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
