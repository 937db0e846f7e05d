"""What the commands share: the library's log, shown on the console of a command."""

from __future__ import annotations

import io
import logging

import pytest
import typer
from rich.console import Console

from mogu.cli._shared import STOPPED_BY_USER, named_records, show_log, stoppable
from mogu.data.starter import HELD_OUT


def shown(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=40)


def test_a_command_shows_what_the_library_logs_at_info_and_above(console: Console) -> None:
    with show_log(console):
        logging.getLogger("mogu.training.search").info("The %s responder is trained already.", "glad")
        logging.getLogger("mogu.training").warning("careful")
        logging.getLogger("mogu.training").debug("detail")
        logging.getLogger("somebody.else").warning("noise")
    assert shown(console) == ["The glad responder is trained already.", "careful"]


def test_a_line_is_shown_as_it_is_however_long_and_whatever_brackets_it_holds(console: Console) -> None:
    line = "dial [bold]+1[/bold]: " + "malicious refused 97.0%, benign refused 3.0%, " * 3
    with show_log(console):
        logging.getLogger("mogu").info(line)
    assert shown(console) == [line]


def test_nothing_is_shown_before_or_after_and_the_logger_is_left_as_it_was(console: Console) -> None:
    logger = logging.getLogger("mogu")
    before = (logger.level, list(logger.handlers))
    with pytest.raises(KeyboardInterrupt), show_log(console):
        raise KeyboardInterrupt
    logging.getLogger("mogu.training").info("too late")
    assert shown(console) == []
    assert (logger.level, list(logger.handlers)) == before


def test_a_logger_that_was_set_to_debug_stays_at_debug(console: Console) -> None:
    logger = logging.getLogger("mogu")
    logger.setLevel(logging.DEBUG)
    try:
        with show_log(console):
            assert logger.level == logging.DEBUG
        assert logger.level == logging.DEBUG
    finally:
        logger.setLevel(logging.NOTSET)


def test_starter_stands_for_the_starter_sets_training_records() -> None:
    records = named_records("starter")
    assert {record.label for record in records} == {"benign", "malicious"}
    assert len(records) == 500
    topics = {record.id.partition("-")[2].rpartition("-")[0] for record in records}  # of "m-car-theft-03"
    assert "firearms" in topics
    assert not topics & HELD_OUT.keys()


def test_ctrl_c_ends_with_a_hint_even_where_python_hides_it_in_another_error(console: Console) -> None:
    class Interrupted:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended, stoppable(console, "Go on."):
        type("Made", (), {"part": Interrupted()})
    assert ended.value.exit_code == STOPPED_BY_USER
    assert "Stopped. Go on." in shown(console)
    with pytest.raises(RuntimeError, match="of its own"), stoppable(console, "Go on."):
        raise RuntimeError("of its own")
