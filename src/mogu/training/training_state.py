"""Checkpoints of a training loop: trained weights, optimizer and random states, from which it resumes exactly.

Knows tensors, optimizers and random generators; does not know what is trained or what the loss is.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mogu.errors import MoguError
from mogu.files.atomic import discard

TRAINED_FILE, STATE_FILE = "trained.safetensors", "state.pt"
INCOMING = ".incoming"
"""Where a checkpoint is written, beside the others, before it gets its name."""


def write_training_state(folder: Path, step: int, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Write ``checkpoint-<step>`` into a folder and drop the checkpoints before it.

    It is written under another name and then renamed: a kill in between leaves the checkpoint before.

    Args:
        folder: of all checkpoints of this training.
        step: optimizer steps that were taken.
        trained: the parameters that are trained, by name; nothing else of the model is kept.
        optimizer: the optimizer.

    Raises:
        MoguError: the file system refuses.
    """
    target, incoming = folder / f"checkpoint-{step}", folder / INCOMING
    older = [path for path in folder.glob("checkpoint-*") if path != target]
    discard(incoming)
    try:
        with written_or_refused(folder):
            incoming.mkdir(parents=True)
            save_file({name: parameter.detach().cpu().contiguous() for name, parameter in trained.items()}, incoming / TRAINED_FILE)
            torch.save({"optimizer": optimizer.state_dict(), "random": _random_states()}, incoming / STATE_FILE)
            discard(target)
            os.replace(incoming, target)
    except MoguError:
        shutil.rmtree(incoming, ignore_errors=True)
        raise
    for path in older:
        discard(path)


def read_training_state(checkpoint: Path, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load trained weights and optimizer from a checkpoint.

    Args:
        checkpoint: what :func:`write_training_state` wrote.
        trained: the parameters that take over the saved values.
        optimizer: likewise.

    Returns:
        The random states, for :func:`set_random_states`.

    Raises:
        MoguError: an earlier release wrote the checkpoint.
    """
    if not (checkpoint / STATE_FILE).is_file():
        raise MoguError(
            f"{checkpoint} was written by an earlier release of mogu",
            expected=f"a checkpoint of this release, with a {STATE_FILE}",
            action="train that stage again with --restart, or finish it with the release that began it",
        )
    saved = load_file(checkpoint / TRAINED_FILE)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(saved[name])
    state = torch.load(checkpoint / STATE_FILE, map_location="cpu", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    states: dict[str, Any] = state["random"]
    return states


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
    states = _random_states()
    try:
        yield
    finally:
        set_random_states(states)


def _random_states() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state()
    name, keys, *rest = numpy_state
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a folder; each is whole, since it gets its name only when it is complete."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdigit()]
    return max(checkpoints, key=step_of, default=None)


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
