"""Work on prompts in batches: the longest first, as many at a time as memory allows, and fewer where it did not; or several at once.

Knows lengths and memory; knows nothing of what is done with a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import psutil
import torch

from mogu.transformers_compat import in_layers

ResultT = TypeVar("ResultT")

_SIDE_BY_SIDE = 8
"""Batches at a time, at most: each has activations of its own."""


def in_batches(
    work: Callable[[list[int]], Sequence[ResultT]],
    lengths: Sequence[int],
    *,
    most: Callable[[int], int],
    advance: Callable[[int], None] | None = None,
) -> list[ResultT]:
    """Work on all prompts, those of like length together.

    The longest come first: a run that is short of memory is so at once. None is padded to more than twice its length, since padding is
    read as well. A batch for which an accelerator has too little memory is done again in halves, and no later one is larger.

    Args:
        work: returns one result for each of the prompts of a batch, which it is given as indices in rising order.
        lengths: of each prompt, in tokens.
        most: how many prompts a batch may have, given the length of its longest.
        advance: is told how many prompts each batch had.

    Returns:
        The results, in the order of the prompts.

    Raises:
        torch.OutOfMemoryError: there is too little memory for one prompt alone.
    """
    waiting = _longest_first(lengths)
    results: dict[int, ResultT] = {}
    fitting = len(waiting)
    while waiting:
        batch = _next_batch(waiting, lengths, most, fitting)
        try:
            made = work(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            fitting = (len(batch) + 1) // 2
            continue  # and let go of the exception, whose frames hold the memory of the failed batch
        results.update(zip(batch, made, strict=True))
        del waiting[: len(batch)]
        if advance is not None:
            advance(len(batch))
    return [results[index] for index in range(len(lengths))]


def in_batches_side_by_side(
    work: Callable[[list[int]], Sequence[ResultT]],
    lengths: Sequence[int],
    *,
    most: Callable[[int], int],
    advance: Callable[[int], None] | None = None,
) -> list[ResultT]:
    """Work on all prompts in the batches of :func:`in_batches`, several of them at a time on the cores of a CPU.

    Cores that share each operation wait for one another after all of them, and other work on the machine makes the wait long. A small
    model on two cores reads a quarter more so; results are the same.

    Args:
        work: as of :func:`in_batches`; it is called in several threads at once.
        lengths: as of :func:`in_batches`.
        most: as of :func:`in_batches`.
        advance: as of :func:`in_batches`; it is called in this thread.

    Returns:
        The results, in the order of the prompts.
    """
    waiting = _longest_first(lengths)
    results: dict[int, ResultT] = {}
    batches = []
    while waiting:
        batches.append(_next_batch(waiting, lengths, most, len(waiting)))
        del waiting[: len(batches[-1])]
    with _threads_of_their_own() as pool:
        for batch, made in zip(batches, pool.map(work, batches), strict=True):
            results.update(zip(batch, made, strict=True))
            if advance is not None:
                advance(len(batch))
    return [results[index] for index in range(len(lengths))]


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])


def _next_batch(waiting: Sequence[int], lengths: Sequence[int], most: Callable[[int], int], fitting: int) -> list[int]:
    longest = lengths[waiting[0]]
    return sorted(index for index in waiting[: min(fitting, most(longest))] if 2 * lengths[index] >= longest)


@contextmanager
def _threads_of_their_own() -> Iterator[ThreadPoolExecutor]:
    """Threads that share no operation, or as few of PyTorch's as there are cores to spare."""
    cores = torch.get_num_threads()
    threads = min(cores, _SIDE_BY_SIDE)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(cores // threads,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, or Ctrl-C, what has not begun is not wanted
        torch.set_num_threads(cores)


def rows_in_memory(model: Any, tokens: int) -> int:
    """How many rows of so many tokens a model can generate at once: those whose cache and logits take half of the free memory.

    The other half is for a growing cache, which exists twice in one layer at a time, and for reading the prompts.

    Args:
        model: a causal language model.
        tokens: of a row, prompt and reply.

    Returns:
        The number, at least 1.
    """
    config = model.config.get_text_config(decoder=True)

    def size(name: str) -> int:
        # One that a config of remote code gives another name counts as nothing.
        return max(in_layers(config, name), default=0)

    layers, heads, hidden, vocabulary = map(size, ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size"))
    head = size("head_dim") or hidden // max(1, heads)
    width = (size("num_key_value_heads") or heads) * head
    cache = 2 * layers * width * model.dtype.itemsize * tokens
    logits = 4 * vocabulary * torch.float32.itemsize  # as computed, in float32, processed, and as probabilities
    row: int = max(1, cache + logits)
    return max(1, _free_bytes(model.device) // 2 // row)


def _free_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)  # on Apple's chips the accelerator's memory is the machine's
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
