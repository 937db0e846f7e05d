"""What several commands do: load a saved model, name the lab, show progress, stop on Ctrl-C. Knows nothing of what comes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape

from mogu.cli._options import dtype_option
from mogu.cli._terminal import echo
from mogu.errors import ConfigError
from mogu.processes import is_main
from mogu.workers import Workers, nothing

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from mogu.data import Record
    from mogu.modeling.model import MoguModel

LAB = "lab"
STOPPED_BY_USER = 130
"""The exit code of a command that Ctrl-C ended."""


def named_model(name: str) -> str:
    """The folder or hub id of a model that was named; ``"lab"`` is the lab's base model."""
    if name != LAB:
        return name
    from mogu.lab import build_base

    return str(build_base())


def named_records(data: str) -> Sequence[Record]:
    """The records of a ``.jsonl`` file or of a folder in the published layout; ``"lab"`` stands for the lab's training records.

    ``"starter"`` stands for the starter set's, with openings in place of a base model's answers: the commands read prompts only.

    Raises:
        DataError: they cannot be read.
    """
    from mogu.data import read_published, read_records
    from mogu.data.starter import STARTER, opening_answers, train_pairs

    if data == LAB:
        from mogu.lab import records

        return records("train")
    if data == STARTER:
        return train_pairs(opening_answers)
    path = Path(data)
    return read_published(path) if path.is_dir() else read_records(path)


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells in plain columns: a table drawn to the width of the terminal would cut names that are to be copied."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def shown_by(bars: Progress) -> Callable[[str, int, int], None]:
    """Tells bars of what is under way, how much of it is done and how much there is: a bar for each thing."""
    tasks: dict[str, TaskID] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total, note="")
        bars.update(tasks[what], completed=done)

    return show


def load_model(
    path: str,
    *,
    base_model: str | None,
    dtype: str,
    quantization: str,
    trust_remote_code: bool,
    chat_template: Path | None,
    dial: float | None = None,
    strict_base: bool = False,
) -> MoguModel:
    """Load a saved model, with the prompt it was trained with, onto the GPU if there is one, ready to generate.

    Raises:
        MoguError: the model, its base or its tokenizer cannot be loaded.
    """
    import torch

    from mogu.modeling import loading
    from mogu.progress import quiet_transformers

    with quiet_transformers():
        model = loading.load_model(
            path,
            hardened=True,
            base_model=base_model,
            chat_template=chat_template,
            strict_base=strict_base,
            trust_remote_code=trust_remote_code,
            dtype=dtype_option(dtype) or "auto",
            quantization=quantization,
            device_map={"": "cuda" if torch.cuda.is_available() else "cpu"},
        ).mogu
    assert model is not None
    if dial is not None:
        model.dial = dial
    return model


def check_one_of(resume: bool, restart: bool) -> None:
    """Refuse to go on and to begin anew at once.

    Raises:
        ConfigError: both were asked for.
    """
    if resume and restart:
        raise ConfigError(
            "Both --resume and --restart were given", expected="one of the two", action="--resume goes on, --restart begins anew"
        )


def named_workers(count: int | None, cluster: str | None, setup: Callable[[], object] = nothing) -> Workers | None:
    """The workers of ``--workers`` and ``--ray``; ``None`` where this process does the work.

    Args:
        count: of ``--workers``.
        cluster: of ``--ray``.
        setup: what the command begins with, and they as well; it can be pickled.
    """
    return None if count in (None, 1) and cluster is None else Workers(count, cluster, setup)


def listed(text: str) -> tuple[str, ...]:
    """What an option lists, separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


@contextmanager
def stoppable(console: Console, hint: str) -> Iterator[None]:
    """Let Ctrl-C end the command with a hint on how to go on, in place of a traceback."""
    try:
        yield
    except (KeyboardInterrupt, RuntimeError) as error:
        if not is_interrupt(error):
            raise
        if is_main():
            console.print(f"\nStopped. {hint}")
        raise typer.Exit(STOPPED_BY_USER) from None


def is_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C raised this; in Python 3.11, one that comes while a class is made is a ``RuntimeError`` because of it."""
    return isinstance(error, KeyboardInterrupt) or (isinstance(error, RuntimeError) and isinstance(error.__cause__, KeyboardInterrupt))


@contextmanager
def show_log(console: Console) -> Iterator[None]:
    """Print what mogu logs, at level INFO and above, to a console, a line for each record.

    The library itself prints nothing: it logs under the name ``mogu``. While this context is open, its records are shown as
    plain text, without markup, highlighting or line breaks of the console's; afterward the logger is as it was. Of several processes
    the main one prints.

    Args:
        console: where to print, usually the error stream, since standard output is for results.
    """
    if not is_main():
        yield
        return
    logger, handler = logging.getLogger("mogu"), _ConsoleHandler(console)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(level=logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.console.print(escape(self.format(record)), highlight=False, soft_wrap=True)
        except Exception:  # a log line that cannot be printed must not end the command
            self.handleError(record)


def gibibytes(count: int) -> str:
    """A number of bytes as people read it."""
    return f"{count / 2**30:.1f} GiB"
