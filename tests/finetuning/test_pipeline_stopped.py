"""A fine-tuning run that is killed, or that a full disk stops: what it leaves, and what it becomes when it is resumed."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import runpy
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mogu.errors import ConfigError, MoguError
from mogu.finetuning import FinetuneRecipe, finetune, finetune_recipe_from


def recipe(tree: dict[str, Any]) -> FinetuneRecipe:
    return finetune_recipe_from(tree, source="test")


def exit_code(run: Callable[..., None], *arguments: Any) -> int | None:
    """Of a function of this file that runs in a process of its own, forked from a server that has imported everything once.

    That process runs this file, whose last lines call the function: the name that pytest imports it by means nothing there.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["mogu.finetuning.pipeline"])
    process = server.Process(target=runpy.run_path, args=(__file__, {"CALL": (run.__name__, arguments)}, "child process"))
    process.start()
    process.join(120)
    return process.exitcode


def _tune_until(tree: dict[str, Any], step: int) -> None:
    """Runs in a process of its own, which is killed at an optimizer step."""
    adamw, calls = torch.optim.AdamW, [0]
    plain_step = adamw.step

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain_step(self, *args, **kwargs)

    adamw.step = counted  # type: ignore[method-assign]
    torch.set_num_threads(1)
    finetune(recipe(tree))


@pytest.mark.parametrize(
    ("how", "names"),
    [
        ({"method": "ml-lr", "slow_factors": [0.5, 0.1]}, ["ml-lr, slow factor 0.5", "ml-lr, slow factor 0.1"]),
        # The second is stopped in its warm-up, and has more to train when that is over.
        ({"method": "swat", "warm_ups": [0.2, 0.7]}, ["swat, warm-up 0.2", "swat, warm-up 0.7"]),
    ],
)
def test_a_run_that_was_killed_goes_on_to_the_weights_it_would_have_had(
    how: dict[str, Any],
    names: list[str],
    tree: dict[str, Any],
    record_files: tuple[Path, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    train, dev = map(str, record_files)
    (tmp_path / "robustness.json").write_text(json.dumps({"subset": {"modules": ["model.layers.0.self_attn.q_proj"]}}))
    tree["safety"] |= {**how, "pairs": train, "pairs_dev": dev, "robust_modules": str(tmp_path / "robustness.json")}
    tree["tune"] |= {"batch_size": 2, "dropout": 0.1}  # 9 steps each
    tree["run"] |= {"save_steps": 2}
    whole = tree | {"run": tree["run"] | {"output": str(tmp_path / "whole")}}
    finetune(recipe(whole))
    assert exit_code(_tune_until, tree, 9 + 6) == -signal.SIGKILL  # in the second strategy
    assert not Path(tree["run"]["output"]).exists()
    with pytest.raises(ConfigError, match="holds a training run that stopped at step 4"):
        finetune(recipe(tree))
    with caplog.at_level("INFO", "mogu"):
        resumed = finetune(recipe(tree), resume=True)
    assert f"Tuned already: {names[0]}." in caplog.messages
    for strategy in (name.replace(", ", "-").replace(" ", "-") for name in names):
        files = [Path(f"{output}-training") / strategy / "tuned.safetensors" for output in (tree["run"]["output"], whole["run"]["output"])]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert resumed["after"] == json.loads((tmp_path / "whole" / "finetune_report.json").read_text())["after"]
    with pytest.raises(ConfigError, match="was trained with other settings"):
        finetune(recipe(tree | {"tune": tree["tune"] | {"epochs": 4}}), resume=True)


def _tune_with_room_for(tree: dict[str, Any], most_bytes: int, error_file: Path) -> None:
    """Runs in a process of its own, which cannot write longer files."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    torch.set_num_threads(1)
    try:
        finetune(recipe(tree))
    except MoguError as error:
        error_file.write_text(str(error))


def test_a_full_disk_is_explained_and_leaves_no_half_model(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["tune"] |= {"method": "full"}
    assert exit_code(_tune_with_room_for, tree, 60_000, tmp_path / "error") == 0
    assert "could not be written" in (tmp_path / "error").read_text()
    assert not Path(tree["run"]["output"]).exists()


if __name__ == "child process":
    name, given = globals()["CALL"]
    globals()[name](*given)
