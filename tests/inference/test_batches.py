"""Which prompts share a batch, what happens where memory is short, and how many rows fit, against what a real cache holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psutil
import pytest
import torch
from transformers import PreTrainedModel

from mogu.inference.batches import in_batches, in_batches_side_by_side, rows_in_memory
from mogu.transformers_compat import cache_of

LENGTHS = [5, 9, 2, 7, 7, 4]


def worked(most: Callable[[int], int], memory: int = 100) -> tuple[list[list[int]], list[int], list[int]]:
    """The batches that were begun, their results and the counts that were told, on a machine that has memory for so many rows."""
    begun: list[list[int]] = []
    told: list[int] = []

    def work(batch: list[int]) -> list[int]:
        begun.append(batch)
        if len(batch) > memory:
            raise torch.OutOfMemoryError("a row too many")
        return [10 * index for index in batch]

    results = in_batches(work, LENGTHS, most=most, advance=told.append)
    return begun, results, told


def test_the_longest_come_first_and_results_in_the_order_of_the_prompts() -> None:
    begun, results, told = worked(lambda longest: 2)
    assert begun == [[1, 3], [0, 4], [2, 5]]
    assert results == [0, 10, 20, 30, 40, 50]
    assert told == [2, 2, 2]


def test_no_prompt_is_padded_to_more_than_twice_its_length() -> None:
    lengths = [5, 40, 10, 9, 20, 19, 80, 4]
    begun: list[list[int]] = []
    in_batches(lambda batch: begun.append(batch) or batch, lengths, most=lambda longest: 8)
    assert begun == [[1, 6], [2, 4, 5], [0, 3], [7]]


def test_shorter_prompts_make_larger_batches() -> None:
    assert worked(lambda longest: 16 // longest)[0] == [[1], [3, 4], [0, 5], [2]]


def test_a_batch_that_memory_is_too_short_for_is_done_again_in_halves_and_later_ones_are_no_larger() -> None:
    begun, results, told = worked(lambda longest: 6, memory=2)
    assert begun == [[0, 1, 3, 4], [1, 3], [0, 4], [2, 5]]
    assert results == [0, 10, 20, 30, 40, 50]
    assert told == [2, 2, 2]


def test_memory_too_short_for_one_prompt_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        worked(lambda longest: 6, memory=0)


def test_no_prompts_no_batch() -> None:
    assert in_batches(lambda batch: [1], [], most=lambda longest: 1) == []


def test_batches_side_by_side_are_the_same_ones_and_results_in_the_order_of_the_prompts() -> None:
    begun: list[list[int]] = []
    told: list[int] = []
    meeting = threading.Barrier(2, timeout=30)  # passed only by two at once
    threads = torch.get_num_threads()

    def work(batch: list[int]) -> list[int]:
        meeting.wait()
        begun.append(batch)
        assert torch.get_num_threads() == 2
        return [10 * index for index in batch]

    torch.set_num_threads(2 * 8)
    try:
        results = in_batches_side_by_side(work, [*LENGTHS, 1, 1], most=lambda longest: 2, advance=told.append)
        assert torch.get_num_threads() == 2 * 8
    finally:
        torch.set_num_threads(threads)
    assert sorted(begun) == [[0, 4], [1, 3], [2, 5], [6, 7]]
    assert results == [0, 10, 20, 30, 40, 50, 60, 70]
    assert told == [2, 2, 2, 2]


def test_what_has_not_begun_is_not_begun_after_an_error() -> None:
    begun: list[list[int]] = []

    def work(batch: list[int]) -> list[int]:
        begun.append(batch)
        if len(begun) == 1:
            raise ValueError("no")
        time.sleep(0.01)
        return batch

    with pytest.raises(ValueError, match="no"):
        in_batches_side_by_side(work, [1] * 1000, most=lambda longest: 1)
    assert len(begun) < 1000


@pytest.mark.parametrize("family", ["llama", "llama-3", "gpt2", "opt", "phi3", "gemma"])
def test_cache_and_logits_of_the_rows_that_fit_take_half_of_the_free_memory(make_base: Callable[..., PreTrainedModel], family: str) -> None:
    model, tokens = make_base(family, torch.float32), 40
    cache = cache_of(model(torch.ones(1, tokens, dtype=torch.long), use_cache=True))
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    logits = 4 * 4 * 64
    expected = psutil.virtual_memory().available / 2 / (held + logits)
    assert rows_in_memory(model, tokens) == pytest.approx(expected, rel=0.3)  # other processes come and go


def test_one_row_is_always_tried(make_base: Callable[..., PreTrainedModel]) -> None:
    assert rows_in_memory(make_base(), 10**15) == 1
