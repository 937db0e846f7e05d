"""The paper's experiment as one run: data, three stages, baselines, all defenses on the paper's data sets, report.

Knows the order of the steps and where each model's recipe is; every step itself is done elsewhere. With SmolLM2 the same steps, settings
and data sets run on a model that two CPU cores can train; with the lab's model the steps run on the lab's own data.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from logging import getLogger
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from mogu import lab
from mogu.data import Instruction, ModelAnswers, Record, build_pairs, distinct, split_records, write_record_files
from mogu.errors import ConfigError
from mogu.evaluation.compare import Comparison, Lineup, Results, compare
from mogu.evaluation.datasets import CATALOG, DatasetSpec, dataset_spec, read_dataset
from mogu.files.atomic import atomic_file
from mogu.hub import load_base
from mogu.lab import build_base
from mogu.lab.demo import lab_data, lab_recipe
from mogu.modeling.checkpoint import CONFIG_FILE
from mogu.recipes import shipped_recipe
from mogu.recipes.settings import override
from mogu.training import Plan, Recipe, harden, plan, read_recipe
from mogu.training.inputs import recipe_tokenizer
from mogu.training.recipe import recipe_from

RECIPES = {
    "vicuna-7b": "v1/vicuna-7b",
    "llama2-7b": "v1/llama-2-7b-chat",
    "falcon-7b": "v1/falcon-7b-instruct",
    "dolphin": "v1/dolphin",
    "baichuan2": "v1/baichuan2-7b-chat",
}
"""The paper's models, and their recipes."""

SMALL = "v1/smollm2"
"""The recipe that names the model which can take the place of the paper's."""

ALPACA = DatasetSpec(
    name="alpaca",
    measures="benign",
    size=52002,
    hub="tatsu-lab/alpaca",
    split="train",
    prompt=("instruction",),
    context=("input",),
    license="CC BY-NC 4.0",
    paper="Taori et al. 2023",
)
"""Where benign training instructions come from."""

TRAINING_INSTRUCTIONS = 300
"""Of each label, as published."""

PAPER_DATA = ("just_eval_malicious", "just_eval")
"""Beside AdvBench: what the paper calls Malicious, and its benign instructions."""

PAPER_DEFENSES = (
    "none",
    "sft",
    "detect_inp",
    "self_reminder",
    "self_examine",
    "retokenization",
    "icd",
    "safe_decoding",
    "mogu_score",
    "mogu",
)
"""The paper's, and MoGU's score as a classifier: what is compared, whatever else is installed."""

logger = getLogger(__name__)


@dataclass(frozen=True)
class Reproduction:
    """The settings of a reproduction.

    Args:
        name: one of :data:`RECIPES`.
        out: folder of everything that is written.
        base: ``"hub"`` is the paper's model; ``"smollm2"`` is SmolLM2 in its place, with the paper's data sets and the training settings
            of ``name``; ``"lab"`` is the lab's, with the lab's data: the same steps, in minutes.
        seeds: how many seeds of the baselines' training.
        limit: prompts of each kind of each data set; ``None`` is all.
        shifts: how far MoGU's dial is turned, where it is measured beside its own setting.
        settings: ``section.key=value`` overrides of the recipe.
        judge: an Inspect model that also rates the comparison's replies.
        command: the command line that asked for it, for the report.
    """

    name: str
    out: Path
    base: Literal["hub", "smollm2", "lab"] = "hub"
    seeds: int = 1
    limit: int | None = None
    shifts: tuple[float, ...] = Comparison.shifts
    settings: tuple[str, ...] = ()
    judge: str | None = None
    command: str = ""

    @property
    def pairs(self) -> Path:
        """Training records."""
        return self.out / "data" / "pairs.jsonl"

    @property
    def dev(self) -> Path:
        """Held-out records that choose among candidates."""
        return self.out / "data" / "pairs.dev.jsonl"

    @property
    def unseen(self) -> Path:
        """AdvBench's instructions that are not trained on."""
        return self.out / "data" / "advbench-unseen.txt"

    def recipe(self) -> Recipe:
        """The recipe of the model, with this run's files.

        Raises:
            ConfigError: there is no such model, or a setting cannot be used.
        """
        if self.name not in RECIPES:
            raise ConfigError(f"There is no reproduction {self.name!r}", expected=f"one of {', '.join(RECIPES)}", action="correct the name")
        if self.base == "lab":
            tree = lab_recipe(build_base(), self.out / "model").model_dump()
        else:
            tree = read_recipe(shipped_recipe(RECIPES[self.name]).path).model_dump()
        if self.base == "smollm2":
            small = read_recipe(shipped_recipe(SMALL).path).model_dump()
            tree |= {name: small[name] for name in ("model", "mogu", "run")}
        tree["run"]["output"], tree["data"] = self.out / "model", {"train": self.pairs, "dev": self.dev}
        for setting in self.settings:
            override(tree, setting)
        return recipe_from(tree, source=f"of the reproduction {self.name}")

    def comparison(self, recipe: Recipe) -> Comparison:
        """The comparison at its end: the paper's data sets, each malicious or benign prompt in a published jailbreak as well."""
        is_paper = self.base != "lab"
        return Comparison(
            models=(str(recipe.run.output),),
            out=self.out / "report",
            data=(f"malicious={self.unseen}", *PAPER_DATA) if is_paper else ("lab",),
            defenses=PAPER_DEFENSES,
            jailbreaks="published" if is_paper else None,
            limit=self.limit,
            seeds=self.seeds,
            shifts=self.shifts,
            max_new_tokens=128 if is_paper else 48,
            chat_template=recipe.model.chat_template,
            trust_remote_code=recipe.model.trust_remote_code,
            dtype=recipe.model.dtype,
            judge=self.judge,
            command=self.command,
        )


@dataclass(frozen=True)
class Step:
    """One step of a reproduction.

    Args:
        name: what is done.
        inputs: what it needs.
        output: what it leaves.
        cost: what it takes, in words.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    cost: str


def reproduce(reproduction: Reproduction) -> Results:
    """Run all steps; those that an earlier run finished are taken over.

    Raises:
        MoguError: data, a model or the recipe cannot be fetched or used.
    """
    recipe = reproduction.recipe()
    if not (reproduction.pairs.is_file() and reproduction.dev.is_file()):
        logger.info("Data: training pairs")
        _build_data(reproduction, recipe)
    if not (recipe.run.output / CONFIG_FILE).is_file():
        logger.info("Training: glad, unwill, router")
        harden(recipe, resume=True)
    logger.info("Comparison: baselines, defenses, report")
    return compare(reproduction.comparison(recipe))


def steps(reproduction: Reproduction) -> tuple[list[Step], Plan]:
    """List every step with its inputs and cost, and the training plan behind them; nothing is downloaded, trained or written.

    Raises:
        MoguError: there is no such reproduction, or the recipe cannot be used.
    """
    recipe = reproduction.recipe()
    comparison = reproduction.comparison(recipe)
    planned = _planned(reproduction, recipe)
    is_paper = reproduction.base != "lab"
    sources = ("advbench", f"alpaca ({ALPACA.hub})", recipe.model.base) if is_paper else ("the lab's records",)
    pairs = sum(stage.examples for stage in planned.stages if stage.name == "router") + planned.dev_records
    answered = f", {TRAINING_INSTRUCTIONS} answers by the base model" if is_paper else ""
    listed = [Step("data", sources, f"{reproduction.pairs}, {reproduction.dev}", f"{pairs} pairs{answered}")]
    for stage in planned.stages:
        times = f" × {stage.runs} candidates" if stage.runs > 1 else ""
        cost = f"{stage.steps:,} steps{times}, {stage.trained_parameters:,} parameters, at most {stage.memory_bytes / 2**30:.1f} GiB"
        listed.append(Step(stage.name, (str(reproduction.pairs), recipe.model.base), str(recipe.run.output), cost))
    router = planned.stages[-1]
    listed.append(
        Step(
            "baselines",
            (str(reproduction.pairs), recipe.model.base),
            str(comparison.out / "baselines"),
            f"sft, expert and detector, {reproduction.seeds} time(s); sft takes {router.steps:,} steps, as the router does",
        )
    )
    prompts = _prompts(reproduction, comparison)
    lineup = Lineup(comparison)
    variants = lineup.variants()
    replies = prompts * sum(len({lineup.seed_of(variant, seed) for seed in range(reproduction.seeds)}) for variant in variants)
    cost = f"{prompts:,} prompts × {len(variants)} variants of {len(lineup.names())} defenses: {replies:,} replies of at most "
    data = (*comparison.data, *(("jailbreak_prompts",) if comparison.jailbreaks else ()))
    judging = f"; {replies:,} calls of the judge, one for each reply that is not empty" if comparison.judge else ""
    listed.append(
        Step(
            "comparison",
            (*data, *((f"the judge {comparison.judge}",) if comparison.judge else ())),
            str(comparison.out / "cells"),
            f"{cost}{comparison.max_new_tokens} tokens{judging}",
        )
    )
    return [*listed, Step("report", (str(comparison.out / "cells"),), str(comparison.out / "report.html"), "seconds")], planned


def _prompts(reproduction: Reproduction, comparison: Comparison) -> int:
    """How many prompts there are, as far as is known without the data sets."""
    if reproduction.base == "lab":
        counts: dict[str, int] = {}
        for prompt in lab.prompts("test"):
            counts[prompt.category] = counts.get(prompt.category, 0) + 1
    else:
        counts = {name: CATALOG[name].size or 0 for name in PAPER_DATA}
        counts["advbench"] = (CATALOG["advbench"].size or 0) - TRAINING_INSTRUCTIONS
    kept = [number if reproduction.limit is None else min(number, reproduction.limit) for number in counts.values()]
    return sum(kept) * (2 if comparison.jailbreaks else 1)


def _build_data(reproduction: Reproduction, recipe: Recipe) -> None:
    if reproduction.base == "lab":
        data = lab_data()
        write_record_files({reproduction.pairs: data["train"], reproduction.dev: data["dev"]})
        return
    advbench = _instructions(dataset_spec("advbench", measures=("malicious",)))
    benign = _instructions(ALPACA)[:TRAINING_INSTRUCTIONS]
    section = recipe.model
    model = load_base(
        section.base,
        revision=section.revision,
        trust_remote_code=section.trust_remote_code,
        quantization=section.quantization,
        dtype="auto",
        device_map="auto",
    )
    answer = ModelAnswers(model.train(False), recipe_tokenizer(recipe))
    records = build_pairs(benign, advbench[:TRAINING_INSTRUCTIONS], answer=answer, own_refusals=True)  # as published: the model's own first
    splits = split_records(records, dev=recipe.data.dev_share, test=0.0)
    with atomic_file(reproduction.unseen) as scratch:
        scratch.write_text("\n".join(instruction.text for instruction in advbench[TRAINING_INSTRUCTIONS:]) + "\n", encoding="utf-8")
    write_record_files({reproduction.pairs: splits["train"], reproduction.dev: splits["dev"]})


def _instructions(spec: DatasetSpec) -> Sequence[Instruction]:
    """A data set's instructions, each once and on one line, in an order that depends on nothing but the set."""
    texts = [" ".join(prompt.request.split()) for prompt in read_dataset(spec)]
    drawn = random.Random(f"reproduce {spec.name}").sample(texts, len(texts))
    return distinct([Instruction(text, number) for number, text in enumerate(drawn, 1)])


def _planned(reproduction: Reproduction, recipe: Recipe) -> Plan:
    """Plan the training from the model's shape alone, with stand-ins for records that are still to be made."""
    with _stand_ins(reproduction, recipe) as (train, dev):
        data = recipe.data.model_copy(update={"train": train, "dev": dev})
        shape = shipped_recipe(SMALL if reproduction.base == "smollm2" else RECIPES[reproduction.name]).shape
        model = recipe.model if reproduction.base == "lab" else recipe.model.model_copy(update={"base": str(shape), "revision": None})
        planned = plan(recipe.model_copy(update={"data": data, "model": model}))
    return replace(planned, base_model=recipe.model.base)


@contextmanager
def _stand_ins(reproduction: Reproduction, recipe: Recipe) -> Iterator[tuple[Path, Path]]:
    """Yield files of records: those that are there, or blank ones, as many as there will be."""
    if reproduction.pairs.is_file() and reproduction.dev.is_file():
        yield reproduction.pairs, reproduction.dev
        return
    with TemporaryDirectory() as folder:
        train, dev = Path(folder) / "pairs.jsonl", Path(folder) / "pairs.dev.jsonl"
        if reproduction.base == "lab":
            data = lab_data()
            write_record_files({train: data["train"], dev: data["dev"]})
        else:
            held_out = round(TRAINING_INSTRUCTIONS * recipe.data.dev_share)
            write_record_files({train: _blank(TRAINING_INSTRUCTIONS - held_out), dev: _blank(held_out)})
        yield train, dev


def _blank(count: int) -> Sequence[Record]:
    labels: tuple[Literal["benign"], Literal["malicious"]] = ("benign", "malicious")
    return [
        Record(id=f"{label}-{number}", label=label, instruction="to be drawn", affirm="to be made", reject="to be made")
        for label in labels
        for number in range(count)
    ]
