"""The processes of one run, which torchrun or `accelerate launch` started: what they share, and what the main one does for all.

Every process runs the same program. The main one alone writes, prints and holds locks; what it read, decided or failed at is told to
the others, which wait for it. In a run of one process nothing here does anything, or imports PyTorch. Knows torch.distributed; knows
nothing of what is computed.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from mogu.errors import ConfigError, MoguError

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
ResultT = TypeVar("ResultT")

_PATIENCE = timedelta(days=7)
"""How long a process waits for another. The main one may measure for hours; that one has died is noticed by whoever started them."""

_TELLING = timedelta(seconds=20)
"""How long a process that is to end waits until another one has told why."""

_ELEMENTS = 2**25
"""Numbers of several tensors that are sent at a time, at most, for which they are copied."""

_OTHER_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
"""What `accelerate launch` sets where a config asks for it."""


@dataclass(frozen=True)
class _Group:
    rank: int
    size: int
    talk: Any  # a group that passes objects from CPU to CPU, whatever tensors travel by
    alone: list[Callable[[], Any]]  # what the main process is doing for all, which wait


_group: _Group | None = None
_helpers: list[Callable[[], None]] = []


def count() -> int:
    """How many processes the run has."""
    return 1 if _group is None else _group.size


def rank() -> int:
    """The number of this process, from 0; 0 is the main one."""
    return 0 if _group is None else _group.rank


def is_main() -> bool:
    """Whether this process writes and prints."""
    return rank() == 0


def started() -> int:
    """How many processes were started together, by what torchrun and `accelerate launch` tell each of them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def shards() -> bool:
    """Whether each process is to hold a part of the base model: the config that `accelerate launch` was given asks for FSDP2."""
    return _group is not None and _asked("ACCELERATE_USE_FSDP")


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("true", "1")


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that were started together until the block ends; with one process, or within such a block, do nothing.

    Each takes the GPU of its number on its machine, if there are any. Of the others than the main one nothing is logged.

    Raises:
        ConfigError: they cannot find each other, were started for another way to share the work than this one, or are more than there
            are GPUs.
    """
    global _group
    if started() == 1 or _group is not None:
        yield
        return
    import torch
    import torch.distributed as dist

    _check_start()
    device = _take_device(torch)
    opened = not dist.is_initialized()
    if opened:
        dist.init_process_group("gloo" if device is None else "nccl", timeout=_PATIENCE)
    _group = _Group(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=_PATIENCE), [])
    if shards():  # transformers would leave the weights of all processes but one empty, for accelerate to fill
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    logger = logging.getLogger("mogu")
    level = logger.level
    if not is_main():
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
        # After an error the processes stay joined: they have yet to settle who tells it.
        if opened:
            dist.destroy_process_group()
        _group = None
        _helpers.clear()
    finally:
        logger.setLevel(level)


def _check_start() -> None:
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    engines = [engine for variable, engine in _OTHER_ENGINES.items() if _asked(variable)]
    if _asked("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            engines.append("FSDP of version 1")
        if _asked("FSDP_OFFLOAD_PARAMS"):
            engines.append("FSDP with parameters on the CPU (fsdp_offload_params)")
    if engines:
        raise ConfigError(
            f"The processes were started for {engines[0]}",
            expected="processes that each hold all of the base model (torchrun) or a part of it (accelerate with fsdp_version: 2)",
            action="start those; `mogu recipes cp accelerate/8x80gb` copies a config for FSDP2",
        )
    if missing:
        raise ConfigError(
            f"WORLD_SIZE = {started()} says that several processes were started, but there is no {', '.join(missing)}",
            expected="what torchrun and accelerate launch tell each process",
            action="start them by one of these, or unset WORLD_SIZE",
        )


def _take_device(torch: Any) -> int | None:
    if not torch.cuda.is_available():
        return None
    index, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", index + 1))
    if here > devices:
        raise ConfigError(
            f"{here} processes were started on a machine with {devices} GPUs",
            expected="a process for each GPU, at most",
            action=f"start {devices} on this machine",
        )
    torch.cuda.set_device(index)
    return index


def on_main(compute: Callable[[], ResultT]) -> ResultT:
    """Let the main process compute something while the others wait; all return its result, or raise its error.

    Within what it computes, this does nothing.

    Args:
        compute: returns what can be pickled.

    Raises:
        MoguError: the main process raised it; what else it raises is raised there alone.
    """
    if _group is None or _group.alone:
        return compute()
    import torch.distributed as dist

    message: list[Any] = [None, None]
    if is_main():
        _group.alone.append(compute)
        try:
            message[0] = compute()
        except MoguError as error:
            message[1] = error
        finally:
            _group.alone.pop()
    _help_others()
    dist.broadcast_object_list(message, src=0, group=_group.talk)
    if message[1] is not None:
        raise message[1]
    result: ResultT = message[0]
    return result


def by_main(function: Callable[P, ResultT]) -> Callable[P, ResultT]:
    """Have a function run as :func:`on_main` says, whenever all processes call it."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> ResultT:
        return on_main(lambda: function(*args, **kwargs))

    return call


def gathered(value: ResultT) -> list[ResultT]:
    """What each process has, in their order; it has to be picklable. Of what the main one does for all there is one alone."""
    if _group is None or _group.alone:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * _group.size
    _help_others()
    dist.all_gather_object(values, value, group=_group.talk)
    return values


def share_of(items: Sequence[ResultT]) -> Sequence[ResultT]:
    """The items that are this process's to work on: every one of so many, beginning with that of its number."""
    return items if _group is None or _group.alone else items[_group.rank :: _group.size]


def whole_of(results: Sequence[ResultT]) -> list[ResultT]:
    """Put together what every process made of :func:`share_of` the same items, a result for each, in the items' order."""
    shares = gathered(list(results))
    whole: list[Any] = [None] * sum(map(len, shares))
    for index, share in enumerate(shares):
        whole[index :: len(shares)] = share
    return whole


def add_up(tensors: Sequence[torch.Tensor]) -> None:
    """Set each tensor to its sum over all processes, which have tensors of the same shapes, each all of one type on one device."""
    if _group is not None:
        import torch.distributed as dist

        _help_others()
        _in_turns(tensors, dist.all_reduce)


def copy_from_main(tensors: Sequence[torch.Tensor]) -> None:
    """Set each tensor to what it is in the main process; as for :func:`add_up`."""
    if _group is not None:
        import torch.distributed as dist

        _help_others()
        _in_turns(tensors, functools.partial(dist.broadcast, src=0))


def highest(number: int) -> int:
    """The highest number that any process gives, each of which has to give one: even while the main one computes for all."""
    if _group is None:
        return number
    import torch
    import torch.distributed as dist

    numbers = torch.tensor([number])
    dist.all_reduce(numbers, dist.ReduceOp.MAX, group=_group.talk)
    return int(numbers)


def help_while_waiting(work: Callable[[], None]) -> None:
    """Have a process work for others whenever it waits for them, until the end of :func:`joined`.

    Args:
        work: returns in all processes together, once all of them wait; given again, it is called once.
    """
    if work not in _helpers:
        _helpers.append(work)


def _help_others() -> None:
    for work in _helpers:
        work()


def _in_turns(tensors: Sequence[torch.Tensor], send: Callable[[torch.Tensor], Any]) -> None:
    """Send tensors, many small ones at a time: each time costs as much as some ten thousand numbers."""
    import torch

    waiting = list(tensors)
    with torch.no_grad():
        while waiting:
            turn = [waiting.pop(0)]
            elements = turn[0].numel()
            while waiting and elements + waiting[0].numel() <= _ELEMENTS:
                elements += waiting[0].numel()
                turn.append(waiting.pop(0))
            if len(turn) == 1 and turn[0].is_contiguous():  # there may be no room for a copy of a large one
                send(turn[0].detach())
                continue
            sent = torch.cat([tensor.flatten() for tensor in turn])
            send(sent)
            parts = sent.split([tensor.numel() for tensor in turn])  # type: ignore[no-untyped-call]
            for tensor, part in zip(turn, parts, strict=True):
                tensor.copy_(part.view_as(tensor))


@contextmanager
def telling_once() -> Iterator[bool]:
    """Settle, where several processes end with an error, which of them tells it: yields whether this one does.

    Whoever started them stops all when the first one ends: a process that is silent waits until the error has been told.
    """
    if _group is None:
        if started() > 1 and os.environ.get("RANK", "0") != "0":  # they did not come to be joined, for a reason that all of them have
            time.sleep(_TELLING.seconds)
            yield False
        else:
            yield True
        return
    import torch.distributed as dist

    try:
        store = dist.distributed_c10d._get_default_store()
        first = store.add("mogu/error", 1) == 1
        if not first:
            store.wait(["mogu/told"], _TELLING)
    except (RuntimeError, ValueError):  # whoever kept the store has ended: the error has been told
        yield False
        return
    yield first
    if first:
        store.set("mogu/told", "yes")


def told_elsewhere() -> bool:
    """Whether another process has told an error, after which nothing that this one waits for will come."""
    if _group is None:
        return False
    import torch.distributed as dist

    try:
        return bool(dist.distributed_c10d._get_default_store().add("mogu/error", 0))
    except (RuntimeError, ValueError):
        return True
