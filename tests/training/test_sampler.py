"""Which examples a step sees: each once an epoch, near others of its length, the same for the same seed and epoch."""

from __future__ import annotations

import random

import pytest

from mogu.training.sampler import StepBatches

pytestmark = pytest.mark.core


def lengths(count: int) -> list[int]:
    return [random.Random(index).randint(5, 200) for index in range(count)]


@pytest.mark.parametrize(("count", "batch_size", "micro"), [(24, 8, 8), (25, 8, 3), (23, 8, 3), (7, 16, 4), (1, 8, 8), (100, 16, 5)])
def test_each_example_is_seen_once_in_steps_of_the_batch_size(count: int, batch_size: int, micro: int) -> None:
    batches = StepBatches(lengths(count), batch_size, micro, seed=0)
    epoch = batches.of_epoch(0)
    assert sorted(index for step in epoch for one_pass in step for index in one_pass) == list(range(count))
    assert max(len(one_pass) for step in epoch for one_pass in step) <= micro
    steps = [sum(map(len, step)) for step in epoch]
    assert len(steps) == batches.steps
    assert all(size == min(batch_size, count) for size in steps[:-1])
    assert steps[-1] == count - sum(steps[:-1])


def test_steps_group_lengths_and_the_longest_comes_first() -> None:
    sizes = lengths(400)

    def padding(passes: list[list[int]]) -> int:
        return sum(max(sizes[index] for index in one_pass) * len(one_pass) for one_pass in passes) - sum(sizes)

    grouped = [one_pass for (one_pass,) in StepBatches(sizes, 8, 8, seed=0).of_epoch(0)]
    shuffled = random.Random(0).sample(range(400), 400)
    ungrouped = [shuffled[start : start + 8] for start in range(0, 400, 8)]
    assert padding(grouped) < padding(ungrouped) / 3
    assert max(sizes) in {sizes[index] for index in grouped[0]}


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    sizes = lengths(50)
    batches, again, other = StepBatches(sizes, 8, 8, seed=1), StepBatches(sizes, 8, 8, seed=1), StepBatches(sizes, 8, 8, seed=2)
    first = batches.of_epoch(0)
    assert batches.of_epoch(3) == again.of_epoch(3) != first
    assert batches.of_epoch(0) == first  # whatever was asked for in between
    assert other.of_epoch(0) != first
