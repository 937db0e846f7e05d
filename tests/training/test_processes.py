"""A run of two processes comes to what a run of one comes to, writes once, and ends with one error.

The last lines of this file are what torchrun runs of it.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

import mogu.cli
from mogu.errors import ModelFileError, MoguError, RecordError, TrainingError
from mogu.modeling.sharding import shard
from mogu.processes import add_up, gathered, is_main, joined, on_main, rank, shards, share_of, whole_of
from mogu.training import Recipe, harden, pipeline, recipe_from
from mogu.training.examples import Example, router_examples
from mogu.training.losses import answer_losses
from mogu.training.recipe import RunSection, Stage
from mogu.training.trainer import train_stage, trained_parameters
from tests.launched import FSDP, torchrun, torchrun_mogu
from tests.training.conftest import make_records

STEPS = 20


@pytest.fixture
def recipe(base_folder: Path, record_files: tuple[Path, Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe of 20 steps of the stages that it names: 16 examples make steps of 5, 5, 5 and 1, in passes of up to 2."""

    def write(name: str, method: str, *stages: str, **changes: Any) -> Path:
        tree: dict[str, Any] = {
            "method": method,
            "model": {"base": str(base_folder)},
            "data": {"train": str(record_files[0]), "dev": str(record_files[1])},
            "choice": {"max_new_tokens": 4, "checkpoints": [1.0], "weight_penalties": [2.0]},
            "run": {"output": str(tmp_path / name), "max_length": 128, "micro_batch_size": 2, "save_steps": 7},
            **{stage: {"learning_rate": 1e-2, "epochs": 5, "batch_size": 5} for stage in stages},
        }
        for stage in stages:
            if stage != "router":
                tree[stage]["dropout"] = 0.0
        for section, values in changes.items():
            tree[section] = tree[section] | values
        if method == "v1":
            tree["mogu"] = {"router_hidden": 16}
        lines = [f"method = {json.dumps(method)}"]
        for section, values in tree.items():
            if section != "method":
                lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        file = tmp_path / f"{name}.toml"
        file.write_text("\n".join(lines) + "\n")
        return file

    return write


def read_toml(file: Path) -> Recipe:
    return recipe_from(tomllib.loads(file.read_text()), source="test")


def losses_of(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "loss_history.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows]


def assert_same_tensors(folder: Path, other: Path, atol: float, rtol: float = 1e-4) -> None:
    files = sorted(file.relative_to(folder) for file in folder.rglob("*.safetensors"))
    assert files == sorted(file.relative_to(other) for file in other.rglob("*.safetensors"))
    assert files
    for file in files:
        tensors, others = load_file(folder / file), load_file(other / file)
        assert tensors.keys() == others.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, others[name], atol=atol, rtol=rtol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("method", "stages"), [("gated", ["unwill"]), ("v1", ["glad", "unwill", "router"])])
def test_two_processes_train_what_one_trains(method: str, stages: list[str], recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Each with the whole base model, and each with a part of it, which takes the same numbers together."""
    one, two, parts = (recipe(name, method, *stages) for name in ("one", "two", "parts"))
    harden(read_toml(one))
    run = torchrun_mogu(["train", str(two)], ["train", str(parts)], sharded=[False, True])
    assert run.returncode == 0, run.stderr
    losses, losses_of_two = losses_of(tmp_path / "one"), losses_of(tmp_path / "two")
    # Of V1, glad and unwill learn from 8 of the 16 examples each: 2 steps an epoch, of 5 and of 3.
    assert len(losses) == (STEPS if method == "gated" else 10 + 10 + STEPS)
    assert losses_of_two == pytest.approx(losses, abs=1e-5)
    assert_same_tensors(tmp_path / "one", tmp_path / "two", atol=1e-5)
    reports = [json.loads((tmp_path / name / "training_report.json").read_text()) for name in ("one", "two")]
    for key in ("records", "added_parameters", "base_on_dev"):
        assert reports[0][key] == reports[1][key]
    assert run.stdout.count("Model:") == 2
    assert not list((tmp_path / "two-training").rglob("checkpoint-*"))
    assert losses_of(tmp_path / "parts") == losses_of_two
    assert_same_tensors(tmp_path / "two", tmp_path / "parts", atol=0, rtol=0)


def test_what_is_wrong_with_the_input_is_said_once_and_leaves_nothing(recipe: Callable[..., Path], tmp_path: Path) -> None:
    run = torchrun("-m", "mogu", "train", str(recipe("two", "gated", "unwill", data={"train": str(tmp_path / "missing.jsonl")})))
    assert run.returncode != 0
    assert run.stderr.count("error: ") == 1, run.stderr
    assert run.stderr.count("missing.jsonl") == 1, run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["two.toml"]


def test_what_fails_in_one_process_ends_both_and_is_said_once(recipe: Callable[..., Path], tmp_path: Path) -> None:
    """The main one waits for the other's share of the replies when that cannot load its base model."""
    run = torchrun(__file__, "failing", str(recipe("two", "gated", "unwill")))
    assert run.returncode != 0
    assert run.stderr.count("error: ") == 1, run.stderr
    assert run.stderr.count("this machine has no such model") == 1, run.stderr
    assert not (tmp_path / "two").exists()


def test_what_two_processes_share(base_folder: Path, tmp_path: Path) -> None:
    """Runs the last lines of this file, which say what they saw."""
    run = torchrun(__file__, "sharing", str(base_folder), str(tmp_path))
    assert run.returncode == 0, run.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["on main"] == [[0, 0], ["RecordError", "r1", "a broken record"]]
    assert seen["shared"] == [0, 10, 20, 30, 40]
    assert seen["sum"] == [[3.0], [3.0, 3.0], [3.0]]
    weights = seen["whole"]
    assert weights == seen["resumed"]  # with dropout, whose random numbers differ between processes and go on where they were
    assert seen["parts"] == [weights, weights]
    assert seen["parts, short"].startswith("The device ran out of memory in the stage, with 4 examples a pass")
    assert "'m3'" in seen["not finite"]
    assert seen["not finite"].startswith("The loss is not a number at step ")
    assert seen["in a pass"] == [4, 2]  # of 8 examples, 4 a process; then halved in both, though one alone had run out of memory
    assert seen["lines"] == list(range(1, 7))
    with pytest.raises(MoguError, match="by a run of 2 processes, and this is one of 1 process"):
        trained(base_folder, tmp_path, "whole")


class Stopped(Exception):
    """As a kill, for a test within one process."""


def with_lora(folder: Path, dropout: float) -> Any:
    set_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder)
    if shards():
        shard(base, torch.device("cpu"))
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules=["o_proj", "up_proj"], task_type="CAUSAL_LM")
    return get_peft_model(base, config)


def trained(
    base_folder: Path, folder: Path, name: str, *, dropout: float = 0.0, save_steps: int = 100, losses: Callable[..., Any] | None = None
) -> list[float]:
    """Train for 6 steps of 8 examples; return the sums of the trained weights, of every process alike."""
    model = with_lora(base_folder, dropout)
    plain = functools.partial(answer_losses, model, layout="separate")
    run = RunSection(output=folder / "out", seed=7, micro_batch_size=4, save_steps=save_steps)
    train_stage(
        model,
        losses(plain) if losses is not None else plain,
        examples_of(base_folder),
        Stage(learning_rate=1e-2, epochs=2, batch_size=8),
        run,
        folder / name,
        title="stage",
        layout="separate",
        pad_token_id=0,
    )
    sums = [float(parameter.double().sum()) for parameter in trained_parameters(model).values()]
    assert gathered(sums) == [sums, sums]
    return sums


def examples_of(base_folder: Path) -> list[Example]:
    return router_examples(AutoTokenizer.from_pretrained(base_folder), make_records(), max_length=128)


def error_of(work: Callable[[], Any]) -> MoguError:
    try:
        work()
    except MoguError as error:
        return error
    raise AssertionError("there was no error")


def broken_record() -> None:
    raise RecordError("a broken record", expected="a whole one", action="mend it", record_id="r1")


def failing(recipe: str) -> None:
    """`mogu train` where the base model is missing for the second process alone."""
    load = pipeline.load_recipe_base

    def load_or_fail(section: Any) -> Any:
        if rank() == 1:
            raise ModelFileError("this machine has no such model", expected="the same files everywhere", action="copy it")
        return load(section)

    pipeline.load_recipe_base = load_or_fail
    sys.argv = ["mogu", "train", recipe]
    mogu.cli.main()


def resumed(base_folder: Path, folder: Path, name: str) -> list[float]:
    """As :func:`trained` with dropout, but stopped in its midst."""
    calls = 0

    def stopping(plain: Callable[..., Any]) -> Callable[..., Any]:
        def losses(batch: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 4:  # both in the fourth step: the checkpoint is of the second
                raise Stopped
            return plain(batch)

        return losses

    with pytest.raises(Stopped):
        trained(base_folder, folder, name, dropout=0.2, save_steps=2, losses=stopping)
    return trained(base_folder, folder, name, dropout=0.2, save_steps=2)


def sharing(base_folder: Path, folder: Path) -> None:
    seen: dict[str, Any] = {}
    error = error_of(lambda: on_main(broken_record))
    seen["on main"] = [gathered(on_main(rank)), [type(error).__name__, getattr(error, "record_id", None), error.found]]
    seen["shared"] = whole_of([10 * item for item in share_of(range(5))])
    tensors = [torch.full((1,), 1.0 + rank()), torch.full((2,), 1.0 + rank())]
    alone = torch.full((1,), 1.0 + rank(), requires_grad=True)
    add_up(tensors)
    add_up([alone])
    seen["sum"] = [tensor.tolist() for tensor in (*tensors, alone)]

    seen["whole"] = trained(base_folder, folder, "whole", dropout=0.2, save_steps=2)
    seen["resumed"] = resumed(base_folder, folder, "stopped")
    lines = (folder / "stopped" / "loss_history.jsonl").read_text().splitlines()
    seen["lines"] = [json.loads(line)["step"] for line in lines]

    (of_m3,) = (example for example in examples_of(base_folder) if example.record_id == "m3")

    def broken(plain: Callable[..., Any]) -> Callable[..., Any]:
        def losses(batch: Any) -> Any:
            rows = [row[: len(of_m3)].tolist() for row in batch["input_ids"]]
            whole = [*of_m3.prompt, *of_m3.answers[0]]
            bad = torch.tensor([row == whole for row in rows])
            return torch.where(bad, math.nan, plain(batch))

        return losses

    error = error_of(lambda: trained(base_folder, folder, "broken", losses=broken))
    assert isinstance(error, TrainingError)
    seen["not finite"] = error.found

    sizes: list[int] = []

    def short(plain: Callable[..., Any]) -> Callable[..., Any]:
        def losses(batch: Any) -> Any:
            sizes.append(len(batch["input_ids"]))
            if rank() == 1 and sizes[-1] == 4:
                raise torch.OutOfMemoryError
            return plain(batch)

        return losses

    trained(base_folder, folder, "short", losses=short)
    seen["in a pass"] = sorted(set(sizes), reverse=True)

    os.environ |= FSDP  # from here on each process holds a part of the base model
    sizes.clear()
    seen["parts, short"] = error_of(lambda: trained(base_folder, folder, "parts-short", losses=short)).found
    seen["parts"] = [trained(base_folder, folder, "parts", dropout=0.2), resumed(base_folder, folder, "parts-stopped")]
    if is_main():
        (folder / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "failing":
        failing(*arguments)
    else:
        with joined():
            sharing(*map(Path, arguments))
