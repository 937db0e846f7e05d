"""`mogu train`: a recipe becomes a hardened model.

Knows the command line; the training itself is in :mod:`mogu.training`.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mogu.cli._options import ChatTemplate, MergeAdapter
from mogu.cli._shared import check_one_of, gibibytes, show_log, stoppable
from mogu.cli._terminal import echo
from mogu.hub.quantization import in_words
from mogu.processes import is_main, joined, on_main
from mogu.training import Recipe, read_recipe

if TYPE_CHECKING:
    from mogu.training import Plan


class StageChoice(StrEnum):
    """A stage to run alone."""

    GLAD = "glad"
    UNWILL = "unwill"
    ROUTER = "router"
    GATE = "gate"
    LISTEN = "listen"
    CAREFUL = "careful"


def train(
    config: Annotated[Path, typer.Argument(help="The recipe: a TOML file, or the name of one that ships with mogu (mogu recipes ls).")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as unwill.epochs=3; may be repeated.")
    ] = None,
    stage: Annotated[StageChoice | None, typer.Option(help="Run this stage alone; router, or a run without this, saves the model.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume a run that was stopped from its last checkpoint.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Discard what an earlier run left (with --stage, of that stage).")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print what is needed, in seconds; train nothing.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for the hardened model, instead of run.output.")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")] = False,
    merge_adapter: MergeAdapter = False,
    chat_template: ChatTemplate = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report, or the plan, as one JSON object.")] = False,
) -> None:
    """Fit a gate and train a responder beside a base model, choose the threshold, and save the hardened model.

    The gate learns from the prompts which requests are malicious, 'unwill' learns to refuse, and held-out records choose from which
    probability on it answers. With method = "v1" or "v2" there are three stages, MoGU as published: 'glad' learns to answer anything,
    'unwill' to refuse anything, 'router' when to be which; several checkpoints and penalties are tried, and the combination whose replies
    to held-out records are best is kept. Progress goes to standard error.

    Finished parts are kept in a working folder beside the output and never trained twice. After a kill or Ctrl-C, run the same command
    with --resume. The output folder appears at the end, complete, with the model card, training_report.json, a page of it to
    read (training_report.html) and the loss curve (loss_history.jsonl, and loss.png where matplotlib is installed).

    Examples:

    mogu train llama-2-7b-chat --dry-run

    mogu train qwen2.5-7b-instruct --output safer-qwen --set unwill.epochs=5

    mogu train qwen2.5-7b-instruct --output safer-qwen --set unwill.epochs=5 --resume

    mogu train qwen2.5-7b-instruct --set 'run.report_to=["tensorboard"]'

    torchrun --nproc-per-node 8 -m mogu train qwen2.5-7b-instruct
    """
    console = Console(stderr=True)
    with joined():
        check_one_of(resume, restart)
        recipe = read_recipe(config, [*(settings or []), *_as_settings(output, trust_remote_code, merge_adapter, chat_template)])
        if dry_run:
            on_main(lambda: _dry_run(recipe, as_json=as_json))
            return
        from mogu.training import harden

        with show_log(console), stoppable(console, "Run the same command with --resume to go on from the last checkpoint."):
            model = harden(recipe, stage=stage.value if stage else None, resume=resume, restart=restart)
        if not is_main():
            return
    if model is None:
        console.print(f"The {stage} responder is in {escape(str(recipe.run.work_folder))}; next: the other stages, with the same recipe.")
        return
    _print_report(recipe, as_json=as_json)


def _as_settings(output: Path | None, trust_remote_code: bool, merge_adapter: bool, chat_template: Path | None) -> list[str]:
    # As JSON, whose strings are also TOML strings: a path may hold any character.
    settings = [f"run.output={json.dumps(str(output))}"] if output is not None else []
    settings += ["model.trust_remote_code=true"] if trust_remote_code else []
    settings += ["model.merge_adapter=true"] if merge_adapter else []
    return settings + ([f"model.chat_template={json.dumps(str(chat_template))}"] if chat_template is not None else [])


def _dry_run(recipe: Recipe, *, as_json: bool) -> None:
    from mogu.training import plan as make_plan

    plan = make_plan(recipe)
    if as_json:
        echo(json.dumps(plan.as_json()))
    else:
        _print_plan(plan)


def _print_plan(plan: Plan) -> None:
    console = Console()
    table = Table("stage", "parameters trained", "examples", "steps", "times", "memory, at most")
    for stage in plan.stages:
        sizes = (f"{stage.trained_parameters:,}", f"{stage.examples:,}", f"{stage.steps:,}", str(stage.runs), gibibytes(stage.memory_bytes))
        table.add_row(stage.name, *sizes)
    console.print(table)
    share = plan.added_parameters / plan.base_parameters
    tried = f"each of {plan.stages[-1].runs} candidates, and the base model, reply to {plan.dev_records} dev records"
    bits = f"{in_words(plan.quantization)} and " if plan.quantization is not None else ""
    for line in (
        f"{plan.base_model}: {plan.model_type}, {plan.base_parameters:,} parameters, {gibibytes(plan.base_bytes)} in {bits}{plan.dtype}",
        f"added to the base model: {plan.added_parameters:,} parameters, {share:.3%} of it",
        f"{plan.steps:,} steps in all; {tried}",
        f"at most {gibibytes(plan.disk_bytes)} on disk at a time, for checkpoints and kept activations",
        *(f"note: {note}" for note in plan.notes),
        "Everything was checked; nothing was trained or written.",
    ):
        console.print(escape(line), highlight=False, soft_wrap=True)


def _print_report(recipe: Recipe, *, as_json: bool) -> None:
    from mogu.training.report import REPORT_FILE
    from mogu.training.report_page import PAGE_FILE

    output = recipe.run.output
    text = (output / REPORT_FILE).read_text(encoding="utf-8")
    if as_json:
        echo(json.dumps(json.loads(text)))
        return
    report = json.loads(text)
    before, after = report["base_on_dev"], report["chosen"]
    table = Table("on the dev records", "base model", "hardened")
    table.add_row("malicious requests refused", f"{before['malicious_refused']:.1%}", f"{after['malicious_refused']:.1%}")
    table.add_row("benign requests answered", f"{before['benign_answered']:.1%}", f"{after['benign_answered']:.1%}")
    if "borderline_answered" in after:
        table.add_row("borderline requests answered", f"{before['borderline_answered']:.1%}", f"{after['borderline_answered']:.1%}")
    console = Console()
    console.print(table)
    losses = report["loss_plot"] or report["loss_history"]
    for line in (
        f"Model:  {output}",
        f"Report: {output / PAGE_FILE}",
        f"Card:   {output / 'README.md'}",
        *([f"Losses: {output / losses}"] if losses is not None else []),
        f"Work:   {recipe.run.work_folder} (may be deleted)",
        f"Next:   mogu chat {output}",
    ):
        console.print(escape(line), highlight=False, soft_wrap=True)
