"""Outputs that a caller gets late: in order, never more than was to be held back, and nothing that was taken back."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mogu.serving.hold_back import HeldOutputs


@dataclass
class Output:
    new_token_ids: list[int]
    finished: bool = False


def tokens(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.new_token_ids]


@pytest.mark.parametrize(("late", "seen"), [(0, [[1], [2], [3], [4]]), (2, [[], [], [1], [2, 3, 4]]), (None, [[], [], [], [1, 2, 3, 4]])])
def test_tokens_come_late_and_all_of_them_at_the_end(late: int | None, seen: list[list[int]]) -> None:
    held = HeldOutputs(late)
    assert [tokens(held.after(Output([token], finished=token == 4))) for token in (1, 2, 3, 4)] == seen
    assert held.shown == 4


def test_what_is_taken_back_is_never_handed_on() -> None:
    held = HeldOutputs(3)
    shown = [token for number in range(5) for token in tokens(held.after(Output([number])))]
    assert shown == [0, 1]
    held.take_back(3)
    assert tokens(held.all()) == [2]
    assert held.shown == 3
    held.after(Output([7]))
    held.take_back(3)
    assert held.all() == []
