"""Loss histories as files: one line a step, whatever happened to the run that wrote them."""

from __future__ import annotations

import subprocess
import sys
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


def test_a_disk_that_fills_up_is_an_error_at_the_step_and_the_steps_before_it_stay(tmp_path: Path) -> None:
    """In a process of its own, which cannot write longer files than 100 bytes."""
    file = tmp_path / "loss.jsonl"
    script = """if True:
        import resource, signal, sys
        from pathlib import Path
        from mogu.training.loss_history import LossHistory
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        step = 0
        try:
            with LossHistory(Path(sys.argv[1]), 0) as history:
                for step in range(1, 100):
                    history.append({"stage": "glad", "step": step, "loss": 0.5})
        except OSError as error:
            print(step, error.strerror)
    """
    done = subprocess.run([sys.executable, "-c", script, str(file)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() in {"3 No space left on device", "3 File too large"}
    assert [row["step"] for row in read_history(file)] == [1, 2]
