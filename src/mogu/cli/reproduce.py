"""`mogu reproduce`: the paper's experiment with one of its models, from data to report.

Knows the command line; the work is done in :mod:`mogu.reproduction`.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mogu.cli._shared import show_log, stoppable
from mogu.cli._terminal import echo
from mogu.cli.compare import AsJson, Judge, Limit, Settings, close

if TYPE_CHECKING:
    from mogu.reproduction import Reproduction


class Base(StrEnum):
    """The model that is hardened."""

    HUB = "hub"
    SMOLLM2 = "smollm2"
    LAB = "lab"


def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="vicuna-7b, llama2-7b, falcon-7b, dolphin or baichuan2.")],
    out: Annotated[Path | None, typer.Option(help="Output folder; reproduction/NAME by default.")] = None,
    base: Annotated[
        Base,
        typer.Option(
            help="'hub' is the paper's model; 'smollm2' takes SmolLM2 in its place, on the paper's data sets; "
            "'lab' runs the same steps on the lab's model and data."
        ),
    ] = Base.HUB,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds the baselines are trained with.")] = 1,
    limit: Limit = None,
    settings: Settings = None,
    judge: Judge = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List every step with its inputs and costs, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Repeat the paper's experiment: data, three stages, all ten defenses, the paper's data sets, the report.

    Needs a GPU that holds the model, and the hub; data sets may also lie in $MOGU_DATA_DIR, each in a file of its name (advbench.csv,
    alpaca.jsonl, just_eval.jsonl, jailbreak_prompts.csv). What is finished is kept:
    after an interruption, the same command goes on.

    Examples:

    mogu reproduce vicuna-7b --dry-run

    mogu reproduce vicuna-7b --base smollm2 --limit 40

    mogu reproduce vicuna-7b --base lab --out reproduction/lab
    """
    from mogu.reproduction import Reproduction
    from mogu.reproduction import reproduce as run

    reproduction = Reproduction(
        name=name,
        out=out or Path("reproduction") / name,
        base=base.value,
        seeds=seeds,
        limit=limit,
        settings=tuple(settings or ()),
        judge=judge,
        command=shlex.join(["mogu", *sys.argv[1:]]),
    )
    if dry_run:
        _dry_run(reproduction, as_json=as_json)
        return
    console = Console(stderr=True, highlight=False)
    with stoppable(console, "The same command goes on from here."), show_log(console):
        results = run(reproduction)
    close(results, reproduction.out / "report", as_json=as_json)


def _dry_run(reproduction: Reproduction, *, as_json: bool) -> None:
    from mogu.reproduction import steps

    listed, plan = steps(reproduction)
    if as_json:
        echo(json.dumps({"steps": [asdict(step) for step in listed], "plan": plan.as_json()}))
        return
    console = Console(highlight=False)
    table = Table("step", "needs", "leaves", "cost")
    for step in listed:
        table.add_row(*(escape(text) for text in (step.name, "\n".join(step.inputs), step.output, step.cost)))
    console.print(table)
    for line in (
        f"{plan.base_model}: {plan.model_type}, {plan.base_parameters:,} parameters, {plan.base_bytes / 2**30:.1f} GiB in {plan.dtype}",
        *(f"note: {note}" for note in plan.notes),
        "Nothing was downloaded, trained or written.",
    ):
        console.print(escape(line), soft_wrap=True)
