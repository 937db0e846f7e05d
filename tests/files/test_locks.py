"""One process at an output: a second one is refused, or waits, until the first is gone, however it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from mogu.errors import MoguError
from mogu.files.locks import locked_in_turn
from mogu.files.outputs import one_process_at
from tests.kills import held


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with held(out / ".lock"), pytest.raises(MoguError, match=r"Another process is writing .*out"), one_process_at(out):
        pass
    with one_process_at(out):  # a dead one holds nothing, though its file is there
        pass
    assert (out / ".lock").is_file()


def test_what_a_dead_process_left_half_written_anywhere_in_an_output_is_removed(tmp_path: Path) -> None:
    half = tmp_path / "out" / "cells" / ".cell.json.abc.incoming"
    half.mkdir(parents=True)
    (half / "cell.json").write_text("{")
    (tmp_path / "out" / "cells" / "cell.json").touch()
    with one_process_at(tmp_path / "out"):
        assert [path.name for path in (tmp_path / "out" / "cells").iterdir()] == ["cell.json"]


def test_a_second_process_that_waits_goes_on_when_the_first_is_dead(tmp_path: Path) -> None:
    with held(tmp_path / ".lock") as holder, locked_in_turn(tmp_path / ".lock", holder.kill):
        assert holder.wait(10)


def test_a_place_where_no_lock_can_be_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MoguError, match="could not be written"), one_process_at(tmp_path, tmp_path / "file" / ".lock"):
        pass


def test_a_folder_that_was_made_for_a_lock_alone_goes_with_the_error(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.mkdir()

    def fail(out: Path, *, late: bool) -> None:
        with one_process_at(out):
            if late:
                (out / "result").write_text("x")
            raise ValueError("no")

    for out in (new, old, tmp_path / "begun"):
        with pytest.raises(ValueError, match="no"):
            fail(out, late=out.name == "begun")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "old"]
