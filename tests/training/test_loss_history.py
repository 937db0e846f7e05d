"""Loss histories as files: one line a step, whatever happened to the run that wrote them."""

from __future__ import annotations

from pathlib import Path

from mogu.training.loss_history import LossHistory, gathered, read_history


def rows(first: int, last: int, stage: str = "glad") -> list[dict[str, object]]:
    return [{"stage": stage, "step": step, "loss": 1 / step} for step in range(first, last + 1)]


def written(file: Path, steps: int, new: list[dict[str, object]]) -> None:
    with LossHistory(file, steps) as history:
        for row in new:
            history.append(row)


def test_steps_that_are_taken_again_replace_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "stage" / "loss.jsonl"
    written(file, 0, rows(1, 5))
    written(file, 3, rows(4, 6))
    assert read_history(file) == rows(1, 6)
    written(file, 0, rows(1, 2))
    assert read_history(file) == rows(1, 2)


def test_a_line_can_be_read_as_soon_as_its_step_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "loss.jsonl"
    with LossHistory(file, 0) as history:
        history.append(rows(1, 1)[0])
        assert read_history(file) == rows(1, 1)


def test_histories_are_gathered_in_order_and_missing_ones_are_passed_over(tmp_path: Path) -> None:
    written(tmp_path / "glad.jsonl", 0, rows(1, 2))
    written(tmp_path / "router λ.jsonl", 0, rows(1, 3, "router λ 2"))
    files = [tmp_path / name for name in ("glad.jsonl", "no-such.jsonl", "router λ.jsonl")]
    assert gathered(files) == rows(1, 2) + rows(1, 3, "router λ 2")
