"""Measure what fine-tuning on a benign task does to the lab model's safety, and what each method of `mogu finetune` recovers.

    python -m experiments.finetuning --out bench-results/finetuning

Each seed tunes the lab's base model on the lab's fleet of ships: plain, with MoGU pairs mixed in, and with two learning rates. Share,
slow factor and robust modules are chosen by the command itself, on dev, with the first seed; the other seeds use the same ones. Safety
and task are measured on the test splits, safety by the lab's own judge. With ``--hardened N`` the model of `mogu demo --lab` is tuned
as well, with N seeds, and its routers and responders are kept in both ways. Finished runs are not repeated; numbers.json, table.md and
the plot are made from all runs that there are.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from experiments.erosion import estimates, markdown, plot
from mogu import MoguModel
from mogu.data import Chat, Message, Record
from mogu.files.atomic import atomic_file
from mogu.finetuning import finetune, finetune_recipe_from
from mogu.finetuning.robust_modules import read_robust_modules
from mogu.hub import load_base, load_tokenizer
from mogu.inference.replies import ReplySettings, replies
from mogu.lab import build_base, choice_records, prompts, records
from mogu.lab.demo import lab_data, lab_recipe
from mogu.lab.measure import judged_replies
from mogu.lab.ships import FleetSplit, fleet_requests, graded
from mogu.modeling.architectures import find_linear_layers
from mogu.training import harden

TUNE: dict[str, Any] = {"method": "full", "learning_rate": 2e-4, "epochs": 24, "batch_size": 16}
"""Chosen on dev: docs/results/finetuning.md says how."""

SAFETY: dict[str, dict[str, Any]] = {
    "plain": {"method": "none"},
    # Ten points, not five: nearly half of the dev prompts are harmless but sound malicious, and no pair is like that.
    "data-mix": {"method": "data-mix", "shares": [0.0, 0.01, 0.02, 0.05, 0.1], "max_benign_loss": 0.1},
    "ml-lr": {"method": "ml-lr", "slow_factors": [1.0, 0.2, 0.1], "tolerances": [0.4]},
}
SLOWER = {"plain-half": 0.5, "plain-quarter": 0.25}
"""Controls: plain tuning at a share of the learning rate for all modules. ml-lr must keep more safety than they do."""

RANDOM = "ml-lr-random"
"""Another control: ml-lr with as many modules as are robust, but drawn at random for each seed."""

_BATCH = 64

console = Console(stderr=True, highlight=False)


def chats(split: FleetSplit) -> list[Chat]:
    """Return a split of the task as conversations."""
    return [
        Chat(id=request.id, messages=tuple(Message.model_validate(turn) for turn in request.conversation))
        for request in fleet_requests(split)
    ]


def dev_pairs() -> list[Record]:
    """Return the lab's dev prompts that are not wrapped, including harmless ones that sound malicious."""
    return [record for record in choice_records() if "_wrapped" not in record.id]


def tuned(model: Path, arm: dict[str, Any], seed: int, output: Path, pairs: dict[str, Any], rate: float = 1.0) -> dict[str, Any]:
    """Tune a model by one method, at a share of the learning rate; return the report."""
    # One working folder for all arms of a seed, so that a trial that two of them share is trained once.
    file = arm.get("robust_modules")
    kind = f"-{file.stem}" if file is not None else ""
    work = output.with_name(f"training{kind}" if rate == 1 else f"training-{rate}")
    recipe = finetune_recipe_from(
        {
            "model": {"base": str(model)},
            "data": {"train": "the lab's fleet"},
            "tune": TUNE | {"learning_rate": rate * TUNE["learning_rate"]},
            "safety": {"pairs": "the lab's own records", "batch_size": _BATCH, **arm},
            "run": {"output": output, "work": work, "seed": seed, "micro_batch_size": 16, "max_length": 256, "save_steps": 1000},
        },
        source="of the experiment",
    )
    task = {split: chats(split) for split in ("train", "dev")}
    return finetune(recipe, chats=task, pairs=pairs, resume=True)


def measured(model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Measure outcomes on the test splits: for each prompt the judge's verdict, by category, and whether its task answer is right."""
    model.eval()
    verdicts: dict[str, list[str]] = {}
    for judged in judged_replies(model, tokenizer, prompts("test"), batch_size=_BATCH):
        verdicts.setdefault(judged.prompt.category, []).append(judged.verdict)
    requests = fleet_requests("test")
    answers = replies(model, tokenizer, [request.instruction for request in requests], ReplySettings(32), batch_size=_BATCH)
    return {"verdicts": verdicts, "task": graded(requests, [answer.text for answer in answers])}


def run_seed(seed: int, base: Path, out: Path, arms: Sequence[str]) -> None:
    """Tune and measure every arm of a seed that is not finished yet."""
    tokenizer = load_tokenizer(str(base))
    pairs = {"train": records("train"), "dev": dev_pairs()}
    for arm in arms:
        file = out / f"seed-{seed}" / f"{arm}.json"
        if file.is_file():
            continue
        console.print(f"seed {seed}, {arm}")
        started = time.monotonic()
        output = out / f"seed-{seed}" / arm
        if arm == "before":
            report, model = None, AutoModelForCausalLM.from_pretrained(base)
        else:
            report = tuned(base, _settings(arm, seed, out, base), seed, output, pairs, SLOWER.get(arm, 1.0))
            model = AutoModelForCausalLM.from_pretrained(output)
        _write(file, {"report": report, "seconds": time.monotonic() - started, **measured(model, tokenizer)})


def _settings(arm: str, seed: int, out: Path, base: Path) -> dict[str, Any]:
    if arm in SLOWER:
        return SAFETY["plain"]
    if arm != RANDOM:
        return SAFETY[arm] if seed == 0 else _chosen(arm, out)
    settings = _chosen("ml-lr", out)
    robust = read_robust_modules(out / "seed-0" / "robustness.json")
    names = [module.name for modules in find_linear_layers(load_base(str(base))).values() for module in modules]
    file = out / f"seed-{seed}" / "random.json"
    _write(file, {"subset": {"modules": random.Random(seed).sample(sorted(names), len(robust))}})
    return settings | {"robust_modules": file}


def _chosen(arm: str, out: Path) -> dict[str, Any]:
    """Return the settings of an arm, with what the first seed chose."""
    settings = SAFETY[arm]
    if settings["method"] == "none":
        return settings
    report = json.loads((out / "seed-0" / f"{arm}.json").read_text(encoding="utf-8"))["report"]
    chosen = report["chosen"]
    if settings["method"] == "data-mix":
        return settings | {"shares": [chosen["share"]]}
    if chosen["slow_factor"] is None:
        return settings | {"slow_factors": [1.0]}
    file = out / "seed-0" / "robustness.json"
    _write(file, {"subset": {"modules": report["robust_modules"][chosen["name"]]}})
    return settings | {"slow_factors": [chosen["slow_factor"]], "robust_modules": file}


def run_hardened(seed: int, base: Path, out: Path) -> None:
    """Measure the model of `mogu demo --lab` before and after it was tuned with a data mix, with both ways of keeping it hardened."""
    folder = out / "hardened"
    tokenizer = load_tokenizer(str(base))
    if not folder.is_dir():
        made = harden(lab_recipe(base, folder), records=lab_data(), resume=True)
        assert made is not None
    for keep in (None, "carry", "retrain"):
        file = out / f"seed-{seed}" / f"mogu-{keep or 'before'}.json"
        if file.is_file():
            continue
        console.print(f"seed {seed}, hardened, {keep or 'before'}")
        started = time.monotonic()
        report, output = None, out / f"seed-{seed}" / f"mogu-{keep}"
        if keep is not None:
            report = _tuned_hardened(folder, seed, output, keep, out)
        model = MoguModel.from_pretrained(folder if keep is None else output)
        _write(file, {"report": report, "seconds": time.monotonic() - started, **measured(model, tokenizer)})


def _tuned_hardened(folder: Path, seed: int, output: Path, keep: str, out: Path) -> dict[str, Any]:
    recipe = finetune_recipe_from(
        {
            "model": {"base": str(folder)},
            "data": {"train": "the lab's fleet"},
            "tune": TUNE,
            "safety": {"pairs": "the lab's own records", "batch_size": _BATCH, **_chosen("data-mix", out)},
            "keep": {"ways": [keep]},
            "run": {"output": output, "work": output.with_name("mogu-training"), "seed": seed, "micro_batch_size": 16, "max_length": 256},
        },
        source="of the experiment",
    )
    task = {split: chats(split) for split in ("train", "dev")}
    return finetune(recipe, chats=task, pairs=lab_data(), resume=True)


def _write(file: Path, content: dict[str, Any]) -> None:
    with atomic_file(file) as scratch:
        scratch.write_text(json.dumps(content) + "\n", encoding="utf-8")


def main() -> None:
    """Run what is missing, then print and save the figures of all runs."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.finetuning", description="Measure safety before and after fine-tuning, on the lab."
    )
    parser.add_argument("--out", type=Path, default=Path("bench-results/finetuning"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--hardened", type=int, default=0, metavar="N", help="tune the hardened model as well, with N seeds")
    parser.add_argument("--plot", type=Path, help="file of the plot; by default next to the numbers")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(1)
    base = build_base()
    for seed in range(options.seeds):
        run_seed(seed, base, options.out, ["before", *SAFETY, *SLOWER, RANDOM])
    for seed in range(options.hardened):
        run_hardened(seed, base, options.out)
    figures = estimates(options.out, options.seeds)
    _write(options.out / "numbers.json", figures)
    text = markdown(figures)
    (options.out / "table.md").write_text(text, encoding="utf-8")
    plot(options.plot or options.out / "lab-finetuning.png", figures)
    print(text)


if __name__ == "__main__":
    main()
