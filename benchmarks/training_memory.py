"""Hold the memory that a dry run predicts against the peak of the process that trains.

Each case trains for a few steps in a process of its own, which prints by how much its peak exceeds the memory that it held before there
was a model: on the CPU resident memory as the kernel counts it, on a GPU what PyTorch has allocated. The longest pass comes first.

    python -m benchmarks.training_memory [--json FILE] [CASE ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.memory import MEGABYTE, RELEASE_AT_ONCE, held, peak, reset_peak

NEAR = 0.15
"""How far a prediction may be from the peak, as a share of it."""

_SENTENCE = "The tram was late again, and nobody minded, because the sun had come out over the harbor and the boats were going home. "

CASES: dict[str, dict[str, Any]] = {
    "smollm2, v1, float32": {"method": "v1", "model.dtype": "float32"},
    "smollm2, v1, bfloat16": {"method": "v1", "model.dtype": "bfloat16"},
    "smollm2, v1, bfloat16, checkpointing": {"method": "v1", "model.dtype": "bfloat16", "run.gradient_checkpointing": True},
    "smollm2, gated, bfloat16": {"method": "gated", "model.dtype": "bfloat16"},
    "smollm2, LoRA, float32": {"tune.method": "lora", "model.dtype": "float32"},
    "smollm2, LoRA, bfloat16": {"tune.method": "lora", "model.dtype": "bfloat16"},
    "smollm2, all parameters, bfloat16": {"tune.method": "full", "model.dtype": "bfloat16"},
    "lab, v1": {"method": "v1", "model.base": "lab"},
    "lab, LoRA": {"tune.method": "lora", "model.base": "lab"},
    "lab, all parameters": {"tune.method": "full", "model.base": "lab"},
}
"""What is set beside the defaults; a case with ``tune.method`` is of `mogu finetune`."""


def measure(names: Sequence[str]) -> list[dict[str, Any]]:
    """Measure cases, one process after the other; each row has the case, the predicted and the measured bytes, and their ratio."""
    rows = []
    for name in names:
        run = subprocess.run(
            [sys.executable, "-m", "benchmarks.training_memory", "--here", name],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).resolve().parents[1],
            env=os.environ | RELEASE_AT_ONCE,
        )
        if run.returncode != 0:
            raise RuntimeError(f"the process that measures {name!r} failed:\n{run.stderr}")
        measured = json.loads(run.stdout.splitlines()[-1])
        for row in measured:
            predicted, found = (f"{row[what] / MEGABYTE:6.0f} MB" for what in ("predicted", "measured"))
            verdict = "near" if abs(row["ratio"] - 1) <= NEAR else "far"
            print(f"{name:40} {row['stage']:8} predicted {predicted}, measured {found}: {row['ratio']:.2f} {verdict}", flush=True)
        rows += measured
    return rows


def _measure_here(name: str) -> list[dict[str, Any]]:
    settings = dict(CASES[name])
    with TemporaryDirectory() as scratch:
        if settings.get("model.base", "smollm2") == "lab":
            from mogu.lab import build_base

            settings["model.base"] = str(build_base())
        make = _finetune if "tune.method" in settings else _train
        return [{"case": name, **row, "ratio": row["predicted"] / row["measured"]} for row in make(settings, Path(scratch))]


def _train(settings: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    import torch

    from mogu.inference.padding import padding_id
    from mogu.modeling.model import MoguModel
    from mogu.training.dry_run import plan
    from mogu.training.inputs import read_inputs
    from mogu.training.losses import answer_losses
    from mogu.training.pipeline import load_recipe_base
    from mogu.training.search import routed_config
    from mogu.training.stages import StageSetting, train_lora, train_responder, train_router

    (folder / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in _records(24)))
    stage = {"epochs": 1, "batch_size": 8}
    method = settings.pop("method")
    tree = {"data": {"train": str(folder / "pairs.jsonl")}, "run": {"output": str(folder / "out"), "max_length": 512}, "unwill": stage}
    tree |= {"glad": stage, "router": stage} if method == "v1" else {}
    recipe = _recipe(tree | {"method": method}, settings)
    planned = {one.name: one.memory_bytes for one in plan(recipe).stages}
    inputs = read_inputs(recipe)
    load_recipe_base(recipe.model.model_copy(update={"dtype": "float32"})).config  # noqa: B018 (libraries allocate memory of their own)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    rows = []
    before = held(device)
    base = load_recipe_base(recipe.model)
    setting = StageSetting(recipe.run, routed_config(recipe), "shared", padding_id(inputs.tokenizer, base))
    names = ["unwill"] if method == "gated" else ["glad", "router"]
    for name in names:
        reset_peak(device)
        title, examples, work = name, inputs.examples[name], folder / name  # type: ignore[index]
        if name == "router":
            model = MoguModel.from_base(base, setting.config)
            train_router(model, examples, recipe.router, 2.0, setting, work, title=title)
            model.detach()
        elif method == "gated":
            options: dict[str, Any] = {"shares": [1.0], "adapter_folder": lambda _, work=work: work / "adapter"}
            train_lora(title, base, examples, answer_losses, recipe.unwill, setting, work, **options)
        else:
            train_responder(title, base, examples, recipe.glad, setting, work, [1.0])
        rows.append({"stage": name, "predicted": planned[name], "measured": peak(device) - before})  # type: ignore[index]
    return rows


def _finetune(settings: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    import torch

    from mogu.finetuning import finetune, plan_tuning
    from mogu.finetuning.recipe import finetune_recipe_from
    from mogu.training.pipeline import load_recipe_base

    chats = [
        [{"role": "user", "content": f"How was day {number}?"}, {"role": "assistant", "content": _SENTENCE * (1 + number % 8)}]
        for number in range(26)
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    tree = {"data": {"train": str(folder / "chats.jsonl")}, "run": {"output": str(folder / "out"), "max_length": 512}}
    tree["tune"] = {"epochs": 1, "batch_size": 8}
    recipe = _recipe(tree, settings, make=finetune_recipe_from)
    planned = plan_tuning(recipe).memory_bytes
    load_recipe_base(recipe.model)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    before = held(device)
    reset_peak(device)
    finetune(recipe)
    return [{"stage": "tune", "predicted": planned, "measured": peak(device) - before}]


def _records(count: int) -> list[dict[str, str]]:
    labels = ("benign", "malicious")
    return [
        {
            "id": f"{label}-{number}",
            "label": label,
            "instruction": f"What about number {number}? " + _SENTENCE * (number % 5),
            "affirm": "Sure, here it is. " + _SENTENCE * (1 + number % 3),
            "reject": "I can't help with that. " + _SENTENCE * (number % 2),
        }
        for label in labels
        for number in range(count)
    ]


def _recipe(tree: dict[str, Any], settings: dict[str, Any], make: Any = None) -> Any:
    from mogu.training import recipe_from

    tree = {"model": {"base": "smollm2"}, **tree}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        tree[section] = tree.get(section, {}) | {name: value}
    return (make or recipe_from)(tree, source="benchmarks.training_memory")


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="parts of names of cases; by default all")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--here", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(_measure_here(options.here)))
        return
    rows = measure([name for name in CASES if not options.cases or any(part in name for part in options.cases)])
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    _main()
