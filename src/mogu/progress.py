"""What a person sees while training runs: progress bars with loss and time left, on the error stream, and nothing else.

Knows the terminal; knows nothing of what is trained. Of several processes, the main one shows its own share. Standard output stays
free for results.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mogu.processes import is_main


def progress_bars() -> Progress:
    """Bars with count, note (the loss, in training), time gone and time left; tasks take a field ``note``."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not is_main(),
    )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep the Trainer's and the loaders' own chatter out of the progress bars."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between PEFT and transformers, of no use to a person who trains
            yield
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
