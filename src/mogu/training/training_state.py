"""Checkpoints of a training loop: trained weights, optimizer and random states, from which it resumes exactly.

Each carries the digests of its files and of what was finished beside it, so that nothing is resumed from what a disk has changed.
Knows tensors, optimizers and random generators; does not know what is trained or what the loss is.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mogu.errors import ConfigError, MoguError
from mogu.files.atomic import discard, put_in_place
from mogu.files.digests import first_damage, folder_digests
from mogu.files.json_files import read_sealed, write_sealed
from mogu.files.locks import LOCK_FILE
from mogu.processes import by_main, count, rank
from mogu.training.loss_history import HISTORY_FILE

TRAINED_FILE, STATE_FILE, DIGESTS_FILE = "trained.safetensors", "state.pt", "digests.json"
INCOMING = ".incoming"
"""Where a checkpoint is written, beside the others, before it gets its name."""

BEGUN, DONE, MEASURED = "begun.json", "done.json", "measured.json"
"""Records of a part, which carry digests of their own."""

ACTIVATIONS_FILE = "lower_activations.bin"
"""Only there while a part trains, see :mod:`mogu.training.lower_activations`."""

TRACKERS_FOLDER = "trackers"
"""What experiment trackers write: no part of what is trained."""

logger = logging.getLogger(__name__)


@by_main
def write_training_state(
    folder: Path,
    step: int,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    *,
    states: Sequence[Mapping[str, Any]],
    in_a_pass: int,
) -> None:
    """Write ``checkpoint-<step>`` into a folder; the one before it stays, and those before that are dropped first.

    It is written under another name, synced and then renamed: a kill or a power cut leaves the checkpoint before.

    Args:
        folder: of all checkpoints of this training.
        step: optimizer steps that were taken.
        trained: the parameters that are trained, by name; nothing else of the model is kept.
        optimizer: the optimizer.
        states: the :func:`random_states` of each process.
        in_a_pass: examples of a pass, which a run that is short of memory has halved.

    Raises:
        MoguError: the file system refuses.
    """
    target, incoming = folder / f"checkpoint-{step}", folder / INCOMING
    for path in [path for path in _checkpoints(folder) if path != target][1:]:
        discard(path)
    discard(incoming)
    try:
        with written_or_refused(folder):
            incoming.mkdir(parents=True)
            save_file({name: parameter.detach().cpu().contiguous() for name, parameter in trained.items()}, incoming / TRAINED_FILE)
            state = {"optimizer": optimizer.state_dict(), "random": states, "in_a_pass": in_a_pass}
            torch.save(state, incoming / STATE_FILE)
            write_sealed(incoming / DIGESTS_FILE, {"files": folder_digests(incoming), "beside": finished_files(folder)})
            discard(target)
            put_in_place(incoming, target)
    except MoguError:
        shutil.rmtree(incoming, ignore_errors=True)
        raise


def finished_files(folder: Path, *, history: bool = False) -> dict[str, str]:
    """Digests of what is finished in the folder of a part: all but checkpoints, records, trackers' files and what is only
    there while it trains.

    Args:
        folder: the folder.
        history: whether the loss history counts; it grows with every step.
    """
    passing = {entry.name for entry in folder.iterdir() if entry.name.startswith(("checkpoint-", "."))}
    records = {BEGUN, DONE, MEASURED, LOCK_FILE, ACTIVATIONS_FILE, TRACKERS_FOLDER, *([] if history else [HISTORY_FILE])}
    return folder_digests(folder, leaving_out=frozenset(passing | records))


@by_main
def good_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a folder that is as it was written, with all that was finished by then; damaged newer ones are deleted.

    Raises:
        MoguError: there are checkpoints, and all of them are damaged.
    """
    damaged: list[Path] = []
    problem = ""
    for checkpoint in _checkpoints(folder):
        problem = _damage_of(checkpoint) or ""
        if not problem:
            for newer in damaged:
                discard(newer)
            return checkpoint
        logger.warning("%s; training goes on from an earlier checkpoint if there is a good one.", problem)
        damaged.append(checkpoint)
    if damaged:
        raise MoguError(
            f"No checkpoint in {folder} is whole: {problem}",
            expected="a checkpoint as this release of mogu wrote it",
            action=f"look after the disk, delete {folder} and run again with --resume: that part alone is trained again",
        )
    return None


def _damage_of(checkpoint: Path) -> str | None:
    try:
        digests = read_sealed(checkpoint / DIGESTS_FILE)
    except MoguError as error:
        return error.found
    if digests is None:
        return f"{checkpoint / DIGESTS_FILE} is missing"
    return first_damage(checkpoint, digests["files"]) or first_damage(checkpoint.parent, digests["beside"])


def read_training_state(checkpoint: Path, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load trained weights and optimizer from a checkpoint.

    Args:
        checkpoint: what :func:`good_checkpoint` returned.
        trained: the parameters that take over the saved values.
        optimizer: likewise.

    Returns:
        ``random``, for :func:`set_random_states`, and ``in_a_pass``.

    Raises:
        ConfigError: another number of processes wrote it.
    """
    saved = load_file(checkpoint / TRAINED_FILE)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(saved[name])
    state: dict[str, Any] = torch.load(checkpoint / STATE_FILE, map_location="cpu", weights_only=True)
    optimizer.load_state_dict(state.pop("optimizer"))
    if len(state["random"]) != count():
        raise ConfigError(
            f"{checkpoint} was written by a run of {_processes(len(state['random']))}, and this is one of {_processes(count())}",
            expected="as many as before: each goes on with its own random numbers",
            action="start as many, or pass --restart to train from the beginning",
        )
    state["random"] = state["random"][rank()]
    return state


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


def set_random_states(states: Mapping[str, Any]) -> None:
    """Set every random generator to where it was when a checkpoint was written."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Leave every random generator as it is found, whatever the block draws."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


def random_states() -> dict[str, Any]:
    """The states of every random generator, for :func:`set_random_states`."""
    numpy_state: Any = np.random.get_state()
    name, keys, *rest = numpy_state
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a folder, by its step: what a clock says does not count."""
    return next(iter(_checkpoints(folder)), None)


def _checkpoints(folder: Path) -> list[Path]:
    """All checkpoints in a folder, the newest first."""
    return sorted((path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdigit()), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step of a ``checkpoint-<step>`` or a ``step-<step>``."""
    return int(path.name.rpartition("-")[2])


@contextmanager
def written_or_refused(folder: Path) -> Iterator[None]:
    """Turn what the operating system, torch and safetensors each raise for a full disk into one error of ours.

    Raises:
        MoguError: something could not be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise MoguError(
            f"A checkpoint in {folder} could not be written: {getattr(error, 'strerror', None) or error}",
            expected="a place with enough space that you may write to",
            action="free space, then run again with --resume; or set run.work to another place",
        ) from error
