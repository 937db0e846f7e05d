"""Experiment trackers, TensorBoard among them: every step's numbers go to those that a recipe names, by transformers' own callbacks.

Knows the callback interface of transformers; does not know the training loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks  # type: ignore[attr-defined]

from mogu.errors import ConfigError

Track = Callable[[int, float, dict[str, float]], None]
"""``track(step, epoch, numbers)`` sends the numbers of one step."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that transformers does not know or that are not installed, before any time goes into training.

    Raises:
        ConfigError: a tracker cannot be used.
    """
    _callbacks(names)


@contextmanager
def tracking(names: Sequence[str], folder: Path, model: nn.Module, *, title: str, steps: int) -> Iterator[Track]:
    """Open the trackers for one stage, and close them when it ends, however it ends.

    Args:
        names: as ``report_to`` of ``transformers.TrainingArguments`` takes them, such as ``["tensorboard"]``; none is fine.
        folder: where those that write files write them.
        model: what is trained.
        title: the name of the run, for trackers that have names.
        steps: optimizer steps of the stage.

    Yields:
        The function that sends numbers.

    Raises:
        ConfigError: a tracker cannot be used.
    """
    callbacks = _callbacks(names)
    if not callbacks:
        yield lambda step, epoch, numbers: None
        return
    arguments = TrainingArguments(output_dir=str(folder), run_name=title, report_to=list(names))
    state, control = TrainerState(max_steps=steps), TrainerControl()
    for callback in callbacks:
        callback.on_train_begin(arguments, state, control, model=model)

    def track(step: int, epoch: float, numbers: dict[str, float]) -> None:
        state.global_step, state.epoch = step, epoch
        for callback in callbacks:
            callback.on_log(arguments, state, control, model=model, logs={**numbers, "epoch": epoch})

    try:
        yield track
    finally:
        for callback in callbacks:
            callback.on_train_end(arguments, state, control, model=model)


def _callbacks(names: Sequence[str]) -> list[Any]:
    try:
        get_callbacks: Any = get_reporting_integration_callbacks
        return [kind() for name in names for kind in get_callbacks(name)]
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(
            f"run.report_to = {list(names)} cannot be used: {error}",
            expected="trackers that transformers knows and that are installed, such as tensorboard",
            action="install them (pip install tensorboard), or correct run.report_to",
        ) from error
