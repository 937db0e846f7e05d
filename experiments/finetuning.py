"""Measure what fine-tuning on a benign task does to a model's safety, and what each method of `mogu finetune` recovers.

    python -m experiments.finetuning --out bench-results/finetuning
    python -m experiments.finetuning --arms sweep --out bench-results/finetuning --sweep-proxy twins
    python -m experiments.finetuning --setting 0.05 --out bench-results/finetuning-malicious-5
    python -m experiments.finetuning --world smollm2 --start sft --out bench-results/finetuning-smollm2 --seeds 3

Each seed tunes the model on the lab's fleet of ships: plain, with MoGU pairs mixed in, with two learning rates, with a warm-up, and
repaired along its alignment. Share, slow factor, warm-up, threshold and robust modules are chosen by the command itself, on dev, with the
first seed; the other seeds use the same ones. ``--arms sweep`` is ML-LR's sweep (experiments/sweep.py). ``--setting S`` puts a share S of
malicious pairs, openings only, among the tuning data. Safety and task are measured on the test splits. With ``--hardened N`` the model of
`mogu demo --lab` is tuned as well, with N seeds, and kept hardened in all three ways. Finished runs are not repeated, and a run that was
stopped goes on from its last checkpoint; numbers.json, the tables and the plots are made from all runs that there are.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from experiments import sweep
from experiments.erosion import ARMS, estimates, markdown, plot
from experiments.worlds import Pairs, World, chats, lab_world, smollm2_world, unaligned, with_malicious
from mogu.files.atomic import atomic_file
from mogu.finetuning import finetune, finetune_recipe_from
from mogu.finetuning.robust_modules import read_robust_modules
from mogu.lab.demo import lab_data, lab_recipe
from mogu.training import harden

SAFETY: dict[str, dict[str, Any]] = {
    "plain": {"method": "none"},
    # Ten points, not five: nearly half of the lab's dev prompts are harmless but sound malicious, and no pair is like that.
    "data-mix": {"method": "data-mix", "shares": [0.0, 0.01, 0.02, 0.05, 0.1], "max_benign_loss": 0.1},
    "ml-lr": {"method": "ml-lr", "slow_factors": [1.0, 0.2, 0.1], "tolerances": [0.4]},
    "swat": {"method": "swat", "warm_ups": [0.0, 0.1, 0.3, 0.6], "tolerances": [0.4]},
    "safe-lora": {"method": "safe-lora", "thresholds": [0.3, 0.6, 1.0]},
    "safe-merge": {"method": "safe-merge", "thresholds": [0.3, 0.6, 1.0]},
}
SETTING_OF = {"data-mix": ("share", "shares"), "ml-lr": ("slow_factor", "slow_factors"), "swat": ("warm_up", "warm_ups")}
"""What the first seed chooses: its name in the report, and the setting that takes it over."""
SLOWER = {"plain-half": 0.5, "plain-quarter": 0.25}
"""Controls: plain tuning at a share of the learning rate for all modules. ml-lr must keep more safety than they do."""
RANDOM = {"ml-lr-random": "ml-lr", "swat-random": "swat"}
"""Further controls: the same with as many modules as are robust, but drawn at random for each seed."""
GROUPS = {
    "all": ("before", *SAFETY, *SLOWER, *RANDOM),
    "sweep": ("before", "plain", *sweep.ARMS),
}

console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Experiment:
    """What is measured.

    Args:
        world: model, task, pairs and prompts.
        out: folder of everything.
        malicious: share of malicious pairs among the tuning data.
        tune: overrides of ``[tune]``.
        drops: of every module, for the sweep.
        subset_share: of the modules, in each subset of the sweep.
    """

    world: World
    out: Path
    malicious: float = 0.0
    tune: dict[str, Any] | None = None
    drops: dict[str, float] | None = None
    subset_share: float = 0.5

    def tuned(self, model: str, settings: dict[str, Any], seed: int, output: Path, pairs: Pairs, rate: float = 1.0, **keep: Any) -> Any:
        """Tune a model by one method, at a share of the learning rate; return the report."""
        # One working folder for all arms of a seed, so that a trial that two of them share is trained once.
        file = settings.get("robust_modules")
        kind = f"-{file.stem}" if file is not None else ""
        work = output.with_name(f"{'mogu-' if keep else ''}training{kind}" if rate == 1 else f"training-{rate}")
        tune = {**self.world.tune, **(self.tune or {})}
        recipe = finetune_recipe_from(
            {
                "model": {"base": model},
                "data": {"train": "the fleet of ships"},
                "tune": tune | {"learning_rate": rate * tune["learning_rate"]},
                "safety": {"pairs": "the world's own records", "batch_size": self.world.batch_size, **settings},
                "run": {**self.world.run, "output": output, "work": work, "seed": seed},
                **keep,
            },
            source="of the experiment",
        )
        task = {split: chats(split) for split in ("train", "dev")}
        task["train"] = with_malicious(task["train"], self.world.pairs["train"], self.malicious, seed)
        return finetune(recipe, chats=task, pairs=pairs, resume=True)

    def run_seed(self, seed: int, arms: tuple[str, ...]) -> None:
        """Tune and measure every arm of a seed that is not finished yet."""
        tokenizer = self.world.tokenizer
        for arm in arms:
            file = self.out / f"seed-{seed}" / f"{arm}.json"
            if file.is_file():
                continue
            console.print(f"seed {seed}, {arm}")
            started = time.monotonic()
            output = self.out / f"seed-{seed}" / arm
            if arm == "before":
                report, model = None, self.world.load(self.world.base)
            else:
                rate = SLOWER.get(arm, 1.0)
                report = self.tuned(self.world.base, self.settings(arm, seed), seed, output, self.world.pairs, rate)
                model = self.world.load(output)
            _write(file, {"report": report, "seconds": time.monotonic() - started, **self.world.measured(model, tokenizer)})

    def settings(self, arm: str, seed: int) -> dict[str, Any]:
        """``[safety]`` of an arm."""
        if arm in SLOWER:
            return SAFETY["plain"]
        if arm in sweep.ARMS:
            assert self.drops is not None
            subset, factor = sweep.ARMS[arm]
            file = self.out / f"seed-{seed}" / f"{subset}.json"
            sweep.write_subset(file, sweep.modules_of(subset, self.drops, self.subset_share, seed))
            return {"method": "ml-lr", "slow_factors": [factor], "robust_modules": file}
        if arm in RANDOM:
            settings = self.chosen(RANDOM[arm])
            names = self.world.linear_modules()
            robust = settings.get("robust_modules")  # none where plain tuning was chosen
            file = self.out / f"seed-{seed}" / f"random-{RANDOM[arm]}.json"
            count = len(read_robust_modules(robust)) if robust is not None else 1
            sweep.write_subset(file, random.Random(seed).sample(names, count))
            return settings | {"robust_modules": file}
        settings = SAFETY[arm] if seed == 0 else self.chosen(arm)
        if settings["method"].startswith("safe-"):
            settings = settings | {"unaligned": unaligned(self.world, self.out)}
        return settings

    def chosen(self, arm: str) -> dict[str, Any]:
        """Return the settings of an arm, with what the first seed chose."""
        settings = SAFETY[arm]
        if settings["method"] == "none":
            return settings
        report = json.loads((self.out / "seed-0" / f"{arm}.json").read_text(encoding="utf-8"))["report"]
        chosen = report["chosen"]
        if arm not in SETTING_OF:  # plain tuning is tried in any case
            return SAFETY["plain"] if chosen["repair"] is None else settings | {"thresholds": [chosen["threshold"]]}
        name, setting = SETTING_OF[arm]
        if chosen[name] is None:
            return SAFETY["plain"]
        settings = settings | {setting: [chosen[name]]}
        if arm == "data-mix":
            return settings
        file = self.out / "seed-0" / f"robustness-{arm}.json"
        sweep.write_subset(file, report["robust_modules"][chosen["name"]])
        return settings | {"robust_modules": file}

    def run_hardened(self, seed: int) -> None:
        """Measure the lab's hardened model before and after it was tuned with a data mix, with every way of keeping it hardened."""
        folder = self.out / "hardened"
        if not folder.is_dir():
            made = harden(lab_recipe(Path(self.world.base), folder), records=lab_data(), resume=True)
            assert made is not None
        for keep in (None, "carry", "routers", "retrain"):
            file = self.out / f"seed-{seed}" / f"mogu-{keep or 'before'}.json"
            if file.is_file():
                continue
            console.print(f"seed {seed}, hardened, {keep or 'before'}")
            started = time.monotonic()
            report, output = None, self.out / f"seed-{seed}" / f"mogu-{keep}"
            if keep is not None:
                report = self.tuned(str(folder), self.chosen("data-mix"), seed, output, lab_data(), keep={"ways": [keep]})  # type: ignore[arg-type]
            model = self.world.load(folder if keep is None else output)
            content = {"report": report, "seconds": time.monotonic() - started, **self.world.measured(model, self.world.tokenizer)}
            _write(file, content)


def _write(file: Path, content: dict[str, Any]) -> None:
    with atomic_file(file) as scratch:
        scratch.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _number(text: str) -> Any:
    name, _, value = text.partition("=")
    return name, json.loads(value)


def main() -> None:
    """Run what is missing, then print and save the figures of all runs."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.finetuning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", choices=("lab", "smollm2"), default="lab")
    parser.add_argument("--start", default="base", help="of smollm2: 'base'; 'sft', tuned to refuse; or the folder of a hardened model")
    parser.add_argument("--out", type=Path, default=Path("bench-results/finetuning"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", default="all", help="'all', 'sweep', or names of arms separated by commas")
    parser.add_argument("--setting", type=float, default=0.0, metavar="SHARE", help="share of malicious pairs among the tuning data")
    parser.add_argument("--set", action="append", default=[], type=_number, metavar="KEY=VALUE", help="override of [tune]")
    parser.add_argument("--limit", type=int, default=30, help="of smollm2: prompts of each kind that safety is measured on")
    parser.add_argument("--sweep-proxy", choices=("records", "twins"), default="twins", help="what the map of the sweep is made with")
    parser.add_argument("--sweep-records", type=int, default=60, help="records of each label for that map")
    parser.add_argument("--sweep-draws", type=int, default=1, help="draws of noise for that map")
    parser.add_argument("--subset-share", type=float, default=0.5, help="of the modules, in each subset of the sweep")
    parser.add_argument("--hardened", type=int, default=0, metavar="N", help="of the lab: tune the hardened model as well, with N seeds")
    parser.add_argument("--plot", type=Path, help="file of the plot; by default next to the numbers")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(1)
    world = lab_world() if options.world == "lab" else smollm2_world(options.start, options.out, limit=options.limit)
    arms = GROUPS.get(options.arms) or tuple(options.arms.split(","))
    if options.world == "smollm2" and options.start != "sft":  # nothing was aligned: Safe LoRA and SafeMERGE have nothing to go by
        arms = tuple(arm for arm in arms if not arm.startswith("safe-"))
    drops = None
    if set(arms) & set(sweep.ARMS):
        folder = options.out / f"map-{options.sweep_proxy}"
        pairs = world.pairs["train"]
        drops = sweep.robustness_map(world.base, pairs, folder, options.sweep_proxy, options.sweep_records, options.sweep_draws)
    experiment = Experiment(world, options.out, options.setting, dict(options.set), drops, options.subset_share)
    for seed in range(options.seeds):
        experiment.run_seed(seed, arms)
    for seed in range(options.hardened):
        experiment.run_hardened(seed)
    figures = estimates(options.out, options.seeds)
    _write(options.out / "numbers.json", figures)
    text = markdown(figures)
    if drops is not None:
        text += "\n" + sweep.sweep_table(figures)
        sweep.sweep_plot(options.out / "sweep.png", figures)
    (options.out / "table.md").write_text(text, encoding="utf-8")
    if set(arms) & set(ARMS):
        plot(options.plot or options.out / "finetuning.png", figures)
    print(text)


if __name__ == "__main__":
    main()
