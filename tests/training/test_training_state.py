"""Training that is stopped at some moment, by a kill, Ctrl-C or a full disk, goes on to the very weights it would have had.

Every run is a process of its own, forked from a server that has imported everything once; it runs this file, whose last lines call
what it is to do, since the name that pytest imports a test file by means nothing to another process.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import os
import resource
import runpy
import shutil
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from mogu.modeling.checkpoint import IDENTITY_FILE

pytestmark = pytest.mark.core

SAVE_STEPS = 2
RECIPE = """
method = "v1"
[model]
base = {base}
[data]
train = {train}
dev = {dev}
[glad]
epochs = 2
batch_size = 3
learning_rate = 1e-3
[unwill]
epochs = 1
batch_size = 3
learning_rate = 1e-3
[router]
epochs = 2
batch_size = 4
learning_rate = 1e-3
[mogu]
router_hidden = 16
[choice]
checkpoints = [0.5, 1.0]
weight_penalties = [2.0]
max_new_tokens = 3
[run]
output = {output}
max_length = 128
micro_batch_size = 2
save_steps = {save_steps}
"""
STEPS = 2 * 3 + 3 + 2 * (2 * 4)
"""8 pairs of each label in steps of 3, and 16 records in steps of 4, for two candidates."""

Write = Callable[[Path, int], Path]
Run = Callable[..., BaseProcess]


@pytest.fixture(scope="module")
def write_recipe(base_folder: Path, record_files: tuple[Path, Path]) -> Write:
    train, dev = record_files

    def write(folder: Path, seed: int = 0) -> Path:
        values = {"base": base_folder, "train": train, "dev": dev, "output": folder / "out"}
        quoted = {name: json.dumps(str(path)) for name, path in values.items()}
        (folder / "recipe.toml").write_text(RECIPE.format(**quoted, save_steps=SAVE_STEPS) + f"seed = {seed}\n")
        return folder / "recipe.toml"

    return write


@pytest.fixture(scope="module")
def run() -> Run:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["mogu.training.pipeline", "mogu.training.dry_run"])

    def start(recipe: Path, **options: Any) -> BaseProcess:
        process = server.Process(target=runpy.run_path, args=(__file__, {"CALL": (recipe, options)}, "child process"))
        process.start()
        process.join(120)
        return process

    return start


def _train(recipe: Path, *, resume: bool = False, stop: tuple[str, int, str] | None = None, file_limit: int | None = None) -> None:
    """Runs in a process of its own; counts optimizer steps in ``steps``, and leaves an error's text in ``error``."""
    import torch

    from mogu.errors import MoguError
    from mogu.training import harden, read_recipe

    torch.set_num_threads(1)
    gc.freeze()  # what was imported need not be looked through at every stage
    if file_limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    adamw = torch.optim.AdamW
    plain_step = adamw.step

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        with (recipe.parent / "steps").open("a") as log:
            log.write("s")
        return plain_step(self, *args, **kwargs)

    adamw.step = counted  # type: ignore[method-assign]
    if stop is not None:
        _stop_at(*stop)
    try:
        harden(read_recipe(recipe), resume=resume)
    except MoguError as error:
        (recipe.parent / "error").write_text(str(error))
        os._exit(2)
    except KeyboardInterrupt:
        os._exit(130)


def _stop_at(where: str, call: int, how: str) -> None:
    """Kill this process, or interrupt it, at the ``call``-th call of a function; ``half`` first writes half of what it would."""
    module_name, _, name = where.partition(":")
    owner: Any = importlib.import_module(module_name)
    *path, name = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    function = getattr(owner, name)
    calls = [0]

    def stopping(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            if how == "interrupt":
                raise KeyboardInterrupt
            if how == "half":
                function(*args, **kwargs)
                file = next(one for one in args if isinstance(one, str | Path))
                os.truncate(file, os.path.getsize(file) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, name, stopping)


def results(folder: Path) -> dict[str, bytes]:
    """The weights that were saved, and the loss of every step that led to them."""
    files = [*sorted((folder / "out").rglob("*.safetensors")), folder / "out" / "loss_history.jsonl"]
    return {str(file.relative_to(folder / "out")): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def uninterrupted(write_recipe: Write, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("uninterrupted")

    def get() -> dict[str, bytes]:
        if not (folder / "out").exists():
            assert run(write_recipe(folder, 0)).exitcode == 0
            assert len((folder / "steps").read_text()) == STEPS
        return results(folder)

    return get


@pytest.mark.parametrize(
    "stop",
    [
        ("torch.optim:AdamW.step", 1, "kill"),  # before anything is saved
        ("torch.optim:AdamW.step", 4, "kill"),  # glad, in the second epoch, between two checkpoints
        ("torch:save", 2, "half"),  # in the middle of the first checkpoint
        ("torch:save", 6, "half"),  # in the middle of a later one: its optimizer state is half written
        ("mogu.training.training_state:save_file", 3, "half"),  # half of the last weights of glad
        ("mogu.training.training_state:discard", 8, "kill"),  # while older checkpoints are removed
        ("torch.optim:AdamW.step", 14, "kill"),  # the first router candidate
        ("mogu.training.search:write_routers", 1, "kill"),  # trained, not yet kept
        ("mogu.training.search:refused_on_dev", 3, "kill"),  # while a candidate is tried
        ("mogu.training.report:write_json", 1, "kill"),  # between the model and its report
        ("torch.optim:AdamW.step", 20, "interrupt"),  # Ctrl-C in the second router candidate
    ],
    ids=lambda stop: f"{stop[0].partition(':')[2]}-{stop[1]}-{stop[2]}",
)
def test_a_run_that_was_stopped_ends_with_the_very_weights_and_losses(
    stop: tuple[str, int, str], write_recipe: Write, run: Run, uninterrupted: Callable[[], dict[str, bytes]], tmp_path: Path
) -> None:
    expected = uninterrupted()
    recipe = write_recipe(tmp_path, 0)
    assert run(recipe, stop=stop).exitcode == (130 if stop[2] == "interrupt" else -signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    assert run(recipe, resume=True).exitcode == 0
    assert results(tmp_path) == expected
    assert (tmp_path / "out" / "training_report.json").is_file()
    repeated = len((tmp_path / "steps").read_text()) - STEPS
    assert 0 <= repeated <= SAVE_STEPS


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    write_recipe: Write, run: Run, uninterrupted: Callable[[], dict[str, bytes]], tmp_path: Path
) -> None:
    found = []
    for name, seed in (("same", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        assert run(write_recipe(tmp_path / name, seed)).exitcode == 0
        found.append(results(tmp_path / name))
    same, other = found
    assert same == uninterrupted()
    assert same.keys() == other.keys()
    assert all(same[name] != other[name] for name in same if name != IDENTITY_FILE)  # both have the same base


def test_a_stopped_run_is_neither_thrown_away_nor_mixed_with_another(write_recipe: Write, run: Run, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, 0)
    run(recipe, stop=("torch.optim:AdamW.step", 4, "kill"))
    (checkpoint,) = (tmp_path / "out-training" / "glad").glob("checkpoint-*")
    before = (checkpoint / "state.pt").read_bytes()
    assert run(recipe).exitcode == 2
    assert "stopped at step 2" in (tmp_path / "error").read_text()
    assert "--resume" in (tmp_path / "error").read_text()
    recipe.write_text(recipe.read_text().replace("1e-3", "2e-3"))
    assert run(recipe, resume=True).exitcode == 2
    assert "other settings" in (tmp_path / "error").read_text()
    assert (checkpoint / "state.pt").read_bytes() == before


@pytest.mark.parametrize("limit", [3_000, 9_000, 13_000])
def test_a_full_disk_leaves_nothing_half_written(
    limit: int, write_recipe: Write, run: Run, uninterrupted: Callable[[], dict[str, bytes]], tmp_path: Path
) -> None:
    """No file may grow beyond the limit: weights, optimizer state or a finished responder does not fit."""
    recipe = write_recipe(tmp_path, 0)
    assert run(recipe, file_limit=limit).exitcode == 2
    assert "could not be written" in (tmp_path / "error").read_text()
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "out-training").rglob(".incoming"))
    assert run(recipe, resume=True).exitcode == 0
    assert results(tmp_path) == uninterrupted()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a small file system takes root")
def test_a_disk_that_fills_up(write_recipe: Write, run: Run, tmp_path: Path) -> None:
    import subprocess

    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(tmp_path)], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        recipe = write_recipe(tmp_path, 0)
        assert run(recipe).exitcode == 2
        assert not (tmp_path / "out").exists()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=False)


if __name__ == "child process":
    recipe_file, how = globals()["CALL"]
    _train(recipe_file, **how)
