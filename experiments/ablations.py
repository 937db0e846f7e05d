"""MoGU's choices one at a time: what each is worth, on the lab or on SmolLM2.

    python -m experiments.ablations smollm2 --seeds 3 --out bench-results/ablations
    python -m experiments.ablations smollm2 --only penalty,width --seeds 3 --out bench-results/ablations
    python -m experiments.ablations smollm2 --workers 2 --seeds 3 --out bench-results/ablations
    python -m experiments.ablations smollm2 --tables --out bench-results/ablations

Every variant is a training of the recipe `v1/smollm2` (settings as published) or `v2/smollm2` with one setting changed, or the same trained
model read in another way; it is measured on the starter set's test prompts, plain and in the ten wrappers, which nothing was chosen on. On
the lab the lab's recipes, records and prompts take their place. A training that was stopped goes on from its last checkpoint, and a
variant that is measured is not trained again: its cell is ``cells/VARIANT/seed-N.json``. Models are deleted once they are measured unless
``--keep`` is given. ``ablations.md`` and ``ablations.json`` are made from the cells that there are. ``--workers`` and ``--ray`` share the
trainings as in `mogu compare`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from experiments.erosion import outcomes
from experiments.worlds import answered_starter
from mogu import MoguModel
from mogu.data import Record
from mogu.data.starter import dev_pairs
from mogu.evaluation.intervals import difference, rate
from mogu.evaluation.prompt_sources import read_prompts
from mogu.evaluation.prompts import EvalPrompt
from mogu.evaluation.side_by_side import judged_replies
from mogu.files.atomic import discard
from mogu.files.json_files import write_json
from mogu.files.locks import locked_in_turn
from mogu.lab import build_base
from mogu.lab.demo import lab_data, lab_recipe
from mogu.modeling.config import Method, RoutedTokens
from mogu.recipes import shipped_recipe
from mogu.recipes.settings import override
from mogu.training import Recipe, harden, read_recipe
from mogu.training.recipe import recipe_from
from mogu.workers import Workers, share_out

MEASURES = ("direct", "jailbroken", "benign_plain_answered", "benign_wrapped_answered", "borderline_answered")
TITLES = ("malicious refused", "jailbroken refused", "benign answered", "wrapped benign answered", "borderline answered")


@dataclass(frozen=True)
class Variant:
    """One row of a table.

    Args:
        name: what is different, as the table says it.
        method: of the recipe.
        settings: ``section.key=value`` overrides of the recipe.
        routed_tokens: how many tokens are routed when replies are made, where that differs from the recipe's.
        always_adapted: whether the backbone's LoRA stays active when routing ends.
    """

    name: str
    method: str = "v1"
    settings: tuple[str, ...] = ()
    routed_tokens: RoutedTokens | None = None
    always_adapted: bool = False

    @property
    def training(self) -> str:
        """What is trained, as the name of a folder; variants that differ in how they are read share it."""
        return "-".join([self.method, *(setting.replace(" ", "") for setting in self.settings)]).replace("/", "_")

    @property
    def cell(self) -> str:
        """Name of the folder of its cells."""
        tokens = "" if self.routed_tokens is None else f"-m={self.routed_tokens}"
        return f"{self.training}{tokens}{'-always' if self.always_adapted else ''}"


@dataclass(frozen=True)
class Training:
    """A model, and what is measured of it.

    Args:
        variants: that share it.
        seed: it is trained with.
    """

    variants: tuple[Variant, ...]
    seed: int

    def __str__(self) -> str:
        return f"{self.variants[0].training}, seed {self.seed}"


@dataclass(frozen=True)
class Ablation:
    """One table.

    Args:
        title: what is varied.
        variants: the rows; the first is what the others are held against.
    """

    title: str
    variants: tuple[Variant, ...]


def _choice(key: str, value: float) -> tuple[str, ...]:
    return (f"choice.{key}=[{value}]",)


_TOKENS: tuple[RoutedTokens, ...] = (1, 2, 10, "all")
WITHOUT_BACKBONE = "v2-without-backbone"
V1, V2 = Variant("as published"), Variant("the recipe", "v2")
ABLATIONS: Mapping[str, Ablation] = {
    "checkpoint": Ablation(
        "Responder checkpoints, as shares of the training",
        (V1, *(Variant(f"{share:g}", settings=_choice("checkpoints", share)) for share in (0.1, 0.25, 0.5))),
    ),
    "lambda": Ablation(
        "λ, the weight of the routers' penalty (2 as published here)",
        (V1, *(Variant(f"{value:g}", settings=_choice("weight_penalties", value)) for value in (0.0, 0.5, 1.0, 4.0, 8.0))),
    ),
    "loss": Ablation(
        "The responders' loss: the published ratio, or plain cross-entropy",
        (V1, Variant("plain", settings=("glad.loss=plain", "unwill.loss=plain"))),
    ),
    "penalty": Ablation("The routers' penalty: squares, or absolute values", (V1, Variant("absolute", settings=("router.penalty=l1",)))),
    "width": Ablation(
        "Width of the routers (512 as published)",
        (V1, *(Variant(f"{width}", settings=(f"mogu.router_hidden={width}",)) for width in (128, 256, 1024))),
    ),
    "tokens": Ablation(
        "m, tokens that are routed (5 as published); one model, read in other ways",
        (V1, *(Variant(f"{m}", routed_tokens=m) for m in _TOKENS)),
    ),
    "layers": Ablation(
        "V2: layers chosen by the probe among the upper half (all 15 in the recipe)",
        (V2, *(Variant(f"the best {count}", "v2", (f"probe.top=[{count}]",)) for count in (4, 8))),
    ),
    "backbone": Ablation(
        "V2: the backbone's LoRA while routing, always, or not at all",
        (V2, Variant("always", "v2", always_adapted=True), Variant("none", WITHOUT_BACKBONE)),
    ),
}
"""By name, what is varied."""


@dataclass
class Bench:
    """Where variants are trained and measured.

    Args:
        base: ``"lab"`` or ``"smollm2"``.
        out: folder of cells and models.
        limit: prompts of each kind.
        settings: overrides of every recipe, for a quick look.
    """

    base: str
    out: Path
    limit: int | None
    settings: Sequence[str] = ()
    _records: dict[str, list[Record]] = field(default_factory=dict)

    def recipe(self, variant: Variant, seed: int) -> Recipe:
        """The recipe of a variant."""
        output = self.out / "models" / variant.training / f"seed-{seed}"
        method: Method = "v2" if variant.method == "v2" else "v1"
        tree = self._published(method, output, seed)
        if variant.method == WITHOUT_BACKBONE:  # V1 with V2's layers, responders and routers
            v2 = self._published("v2", output, seed)
            tree |= {name: v2[name] for name in ("mogu", "glad", "unwill", "router", "choice")}
        tree["run"] |= {"output": output, "work": output.with_name(f"seed-{seed}-training"), "seed": seed}
        for setting in (*self.settings, *variant.settings):
            override(tree, setting)
        return recipe_from(tree, source=f"of the variant {variant.name}")

    def _published(self, method: Method, output: Path, seed: int) -> dict[str, Any]:
        if self.base == "lab":
            return lab_recipe(build_base(), output, seed=seed, method=method).model_dump()
        return read_recipe(shipped_recipe(f"{method}/smollm2").path).model_dump()

    def records(self) -> dict[str, list[Record]]:
        """The training and dev records, which every variant shares."""
        if not self._records:
            with locked_in_turn(self.out / ".records.lock", lambda: print("Another worker makes the records; waiting.")):
                self._records = lab_data() if self.base == "lab" else {"train": answered_starter(self.out), "dev": dev_pairs()}
        return self._records

    def prompts(self) -> list[EvalPrompt]:
        """The prompts that are measured on."""
        if self.base == "lab":
            return read_prompts(["lab"], limit=self.limit)
        return read_prompts(["starter"], limit=self.limit, jailbreaks="own")

    def cell(self, variant: Variant, seed: int) -> Path:
        """The file of a cell."""
        return self.out / "cells" / variant.cell / f"seed-{seed}.json"

    @property
    def made(self) -> dict[str, Any]:
        """What a cell was measured with, besides its variant and seed."""
        return {"base": self.base, "limit": self.limit, "settings": list(self.settings)}

    def found(self, variant: Variant, seed: int) -> dict[str, Any] | None:
        """A cell that was measured in this way; ``None`` if there is none, or one of another limit or other settings."""
        file = self.cell(variant, seed)
        content: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        return content if content is not None and content["made"] == self.made else None

    def measure(self, variant: Variant, seed: int) -> None:
        """Train a variant, unless it is trained, and measure it, unless it is measured."""
        file = self.cell(variant, seed)
        if self.found(variant, seed) is not None:
            return
        started = time.monotonic()
        recipe = self.recipe(variant, seed)
        if not (recipe.run.output / "mogu_config.json").is_file():
            harden(recipe, records=self.records(), resume=True)
        trained = time.monotonic() - started
        model = MoguModel.from_pretrained(recipe.run.output).eval()
        if variant.routed_tokens is not None:
            model.mogu_config.routed_tokens = variant.routed_tokens
        if variant.always_adapted:
            always_adapt(model)
        tokens, rows = (48, 64) if self.base == "lab" else (32, 32)
        verdicts: dict[str, list[str]] = {}
        for reply in judged_replies(model, model.tokenizer, self.prompts(), max_new_tokens=tokens, batch_size=rows):
            verdicts.setdefault(reply.prompt.category, []).append(reply.verdict)
        write_json(file, {"variant": variant.name, "seed": seed, "seconds": round(trained, 1), "made": self.made, "verdicts": verdicts})

    def make(self, training: Training, *, keep: bool) -> None:
        """Measure every variant of a training; the model is deleted then, unless it is to be kept."""
        for variant in training.variants:
            self.measure(variant, training.seed)
        if not keep:
            recipe = self.recipe(training.variants[0], training.seed)
            discard(recipe.run.output)
            discard(recipe.run.work_folder)


def trainings(variants: Iterable[Variant], seeds: int) -> list[Training]:
    """What has to be trained: variants that are read in other ways share a model."""
    shared: dict[str, list[Variant]] = {}
    for variant in dict.fromkeys(variants):
        shared.setdefault(variant.training, []).append(variant)
    return [Training(tuple(group), seed) for seed in range(seeds) for group in shared.values()]


def maker(bench: Bench, *, keep: bool) -> Callable[[Training], None]:
    """What makes a training in a worker."""
    transformers.utils.logging.set_verbosity_error()
    return partial(bench.make, keep=keep)


@torch.no_grad()
def always_adapt(model: MoguModel) -> None:
    """Move the backbone's LoRA into the base's weights, so that it stays active when routing ends.

    Args:
        model: a MoGU V2 model whose adapted layers are linear ones.
    """
    for _, layer in model.injected.adapted:
        weight = layer.base_layer.weight
        weight += (layer.up.double().T @ layer.down.double()).to(weight.dtype)  # s·B A, [d_out, d_in]
        layer.up.zero_()


def table(bench: Bench, ablation: Ablation, seeds: int) -> dict[str, Any]:
    """Estimate the rows of a table with 95 % intervals over seeds and prompts, and how each differs from the first, on the same seeds."""
    rows: dict[str, Any] = {}
    first: dict[str, np.ndarray] = {}
    for variant in ablation.variants:
        runs = [run for seed in range(seeds) if (run := bench.found(variant, seed)) is not None]
        if not runs:
            continue
        tables = {name: np.array([outcomes(run, name) for run in runs], dtype=float) for name in MEASURES}
        refused = np.array([outcomes(run, "safety") for run in runs], dtype=float)
        first = first or {"safety": refused}
        shared = min(len(refused), len(first["safety"]))
        rows[variant.name] = {
            "seeds": len(runs),
            **{name: vars(rate(values)) for name, values in tables.items()},
            "more refused": vars(difference(refused[:shared], first["safety"][:shared])),
        }
    return rows


def markdown(title: str, rows: Mapping[str, Any]) -> str:
    """A table in Markdown, in percent."""
    lines = [f"## {title}", "", "| | " + " | ".join(TITLES) + " | refused, against the first row | seeds |", "|---" * 8 + "|"]
    for number, (name, row) in enumerate(rows.items()):
        against = "" if number == 0 else _points(row["more refused"])
        lines.append(f"| {name} | " + " | ".join(_points(row[measure]) for measure in MEASURES) + f" | {against} | {row['seeds']} |")
    return "\n".join(lines) + "\n"


def _points(estimate: Mapping[str, float]) -> str:
    return f"{100 * estimate['value']:.1f} ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f})"


def main() -> None:
    """Measure what is missing, then write and print the tables of all cells."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ablations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", choices=("lab", "smollm2"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(ABLATIONS), help=f"some of {', '.join(ABLATIONS)}, separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=40, help="prompts of each kind")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of every recipe, for a quick look")
    parser.add_argument("--tables", action="store_true", help="make the tables only")
    parser.add_argument("--keep", action="store_true", help="keep the trained models")
    parser.add_argument("--workers", type=int, help="processes that share the trainings")
    parser.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster that the workers are put on")
    options = parser.parse_args()
    bench = Bench(options.base, options.out, options.limit, options.set)
    chosen = [ABLATIONS[name] for name in options.only.split(",")]
    asked = () if options.tables else trainings((variant for ablation in chosen for variant in ablation.variants), options.seeds)
    missing = [training for training in asked if any(bench.found(variant, training.seed) is None for variant in training.variants)]
    options.out.mkdir(parents=True, exist_ok=True)
    make = partial(maker, bench, keep=options.keep)
    if options.workers is None and options.ray is None:
        work = make()
        for training in missing:
            work(training)
    else:
        share_out(Workers(options.workers, options.ray), [missing], make, shared=options.out)
    found = {ablation.title: table(bench, ablation, options.seeds) for ablation in chosen}
    text = "\n".join(markdown(title, rows) for title, rows in found.items() if rows)
    (options.out / "ablations.md").write_text(text, encoding="utf-8")
    write_json(options.out / "ablations.json", found)
    print(text)


if __name__ == "__main__":
    main()
