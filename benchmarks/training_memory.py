"""Hold the memory that a dry run predicts against the peak of the process that trains.

Each case trains for a few steps in a process of its own, which prints by how much its peak exceeds the memory that it held before there
was a model: on the CPU resident memory as the kernel counts it, on a GPU what PyTorch has allocated. The longest pass comes first.

    python -m benchmarks.training_memory [--json FILE] [CASE ...]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.memory import MEGABYTE, held, measured_apart, peak, reset_peak

NEAR = 0.15
"""How far a prediction may be from the peak, as a share of it."""

_SENTENCE = "The tram was late again, and nobody minded, because the sun had come out over the harbor and the boats were going home. "

CASES: dict[str, dict[str, Any]] = {
    "smollm2, glad, float32": {"stage": "glad", "model.dtype": "float32"},
    "smollm2, glad, bfloat16": {"stage": "glad", "model.dtype": "bfloat16"},
    "smollm2, glad, bfloat16, checkpointing": {"stage": "glad", "model.dtype": "bfloat16", "run.gradient_checkpointing": True},
    "smollm2, router, float32": {"stage": "router", "model.dtype": "float32"},
    "smollm2, router, bfloat16": {"stage": "router", "model.dtype": "bfloat16"},
    "smollm2, router, bfloat16, checkpointing": {"stage": "router", "model.dtype": "bfloat16", "run.gradient_checkpointing": True},
    "smollm2, gate's unwill, bfloat16": {"stage": "unwill", "model.dtype": "bfloat16"},
    "smollm2, LoRA, float32": {"tune.method": "lora", "model.dtype": "float32"},
    "smollm2, LoRA, bfloat16": {"tune.method": "lora", "model.dtype": "bfloat16"},
    "smollm2, all parameters, bfloat16": {"tune.method": "full", "model.dtype": "bfloat16"},
    "lab, glad": {"stage": "glad", "model.base": "lab"},
    "lab, router": {"stage": "router", "model.base": "lab"},
    "lab, LoRA": {"tune.method": "lora", "model.base": "lab"},
    "lab, all parameters": {"tune.method": "full", "model.base": "lab"},
}
"""What is set beside the defaults; a case with ``tune.method`` is of `mogu finetune`."""


def measure(names: Sequence[str]) -> list[dict[str, Any]]:
    """Measure cases, one process after the other; each row has the case, the predicted and the measured bytes, and their ratio."""
    rows = []
    for name in names:
        row = measured_apart("benchmarks.training_memory", ["--here", name])
        predicted, found = (f"{row[what] / MEGABYTE:6.0f} MB" for what in ("predicted", "measured"))
        verdict = "near" if abs(row["ratio"] - 1) <= NEAR else "far"
        print(f"{name:40} predicted {predicted}, measured {found}: {row['ratio']:.2f}, {verdict}", flush=True)
        rows.append(row)
    return rows


def _measure_here(name: str) -> dict[str, Any]:
    settings = dict(CASES[name])
    with TemporaryDirectory() as scratch:
        if settings.get("model.base", "smollm2") == "lab":
            from mogu.lab import build_base

            settings["model.base"] = str(build_base())
        predicted, measured = (_finetune if "tune.method" in settings else _train)(settings, Path(scratch))
    return {"case": name, "predicted": predicted, "measured": measured, "ratio": predicted / measured}


def _train(settings: dict[str, Any], folder: Path) -> tuple[int, int]:
    import torch

    from mogu.inference.padding import padding_id
    from mogu.modeling.model import MoguModel
    from mogu.training.attention_layout import choose_layout
    from mogu.training.dry_run import plan
    from mogu.training.inputs import read_inputs
    from mogu.training.losses import answer_losses
    from mogu.training.pipeline import load_recipe_base
    from mogu.training.search import routed_config
    from mogu.training.stages import StageSetting, train_lora, train_responder, train_router

    (folder / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in _records(16)))
    stage, of_a_stage = settings.pop("stage"), {"epochs": 1, "batch_size": 8}
    method = "gated" if stage == "unwill" else "v1"
    tree = {"method": method, "data": {"train": str(folder / "pairs.jsonl")}, "run": {"output": str(folder / "out"), "max_length": 512}}
    recipe = _recipe(tree | {stage: of_a_stage}, settings)
    (predicted,) = (one.memory_bytes for one in plan(recipe).stages if one.name == stage)
    inputs = read_inputs(recipe)
    load_recipe_base(recipe.model)  # libraries allocate memory of their own on first use
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    before = held(device)
    base = load_recipe_base(recipe.model)
    layout = choose_layout(base, 2 * recipe.run.max_length) if method == "v1" else "separate"
    setting = StageSetting(recipe.run, routed_config(recipe), layout, padding_id(inputs.tokenizer, base))
    examples, work = inputs.examples[stage], folder / stage
    reset_peak(device)
    if stage == "router":
        train_router(MoguModel.from_base(base, setting.config), examples, recipe.router, 2.0, setting, work, title=stage)
    elif method == "gated":
        options: dict[str, Any] = {"shares": [1.0], "adapter_folder": lambda _: work / "adapter"}
        train_lora(stage, base, examples, answer_losses, recipe.unwill, setting, work, **options)
    else:
        train_responder(stage, base, examples, recipe.glad, setting, work, [1.0])
    return predicted, peak(device) - before


def _finetune(settings: dict[str, Any], folder: Path) -> tuple[int, int]:
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
    return planned, peak(device) - before


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
