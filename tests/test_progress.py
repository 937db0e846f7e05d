"""Progress where there is no terminal: plain lines, not too many of them."""

from __future__ import annotations

import io

from rich.console import Console

from mogu.progress import PlainLines, progress_bars


class Clock:
    """Time that goes on when a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(steps: int, seconds_a_step: float, total: int | None) -> list[str]:
    clock, written = Clock(), io.StringIO()
    with PlainLines(Console(file=written, width=40), clock=clock) as bars:
        task = bars.add_task("glad [1/2]", total=total, note="")
        for step in range(1, steps + 1):
            clock.now += seconds_a_step
            bars.update(task, completed=step, note=f"loss {step / 10:.1f}")
    return written.getvalue().splitlines()


def test_a_line_every_ten_seconds_and_one_at_the_end() -> None:
    assert lines(9, 4.0, 9) == [
        "glad [1/2]: 3 of 9, loss 0.3, 0:00:12 gone, 0:00:24 left",
        "glad [1/2]: 6 of 9, loss 0.6, 0:00:24 gone, 0:00:12 left",
        "glad [1/2]: 9 of 9, loss 0.9, 0:00:36 gone",
    ]


def test_what_is_soon_done_is_one_line_however_many_steps_it_has() -> None:
    assert lines(500, 0.01, 500) == ["glad [1/2]: 500 of 500, loss 50.0, 0:00:05 gone"]


def test_what_has_no_known_end_says_how_far_it_is() -> None:
    assert lines(2, 11.0, None) == ["glad [1/2]: 1, loss 0.1, 0:00:11 gone", "glad [1/2]: 2, loss 0.2, 0:00:22 gone"]


def test_bars_stand_in_terminals_alone() -> None:
    assert isinstance(progress_bars(Console(file=io.StringIO())), PlainLines)
    assert not isinstance(progress_bars(Console(file=io.StringIO(), force_terminal=True)), PlainLines)
