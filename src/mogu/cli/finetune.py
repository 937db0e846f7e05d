"""`mogu finetune`: a model learns a user's data and stays as safe as it was.

Knows the command line; the tuning itself is in :mod:`mogu.finetuning`.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mogu.cli._options import ChatTemplate, MergeAdapter, TrustRemoteCode
from mogu.cli._shared import check_one_of, gibibytes, show_log, stoppable
from mogu.cli._terminal import echo
from mogu.finetuning import FinetuneRecipe, read_finetune_recipe
from mogu.processes import is_main, joined, on_main

if TYPE_CHECKING:
    from mogu.finetuning import TuningPlan


class Safety(StrEnum):
    """How to keep the model safe."""

    NONE = "none"
    DATA_MIX = "data-mix"
    ML_LR = "ml-lr"
    SWAT = "swat"
    SAFE_LORA = "safe-lora"
    SAFE_MERGE = "safe-merge"


def finetune(
    config: Annotated[Path, typer.Argument(help="The recipe: a TOML file, or the name of one that ships with mogu (mogu recipes ls).")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as tune.epochs=1; may be repeated.")
    ] = None,
    safety: Annotated[
        Safety | None,
        typer.Option(
            help="none: plain; data-mix: mix MoGU pairs into the data; ml-lr: the whole learning rate for robust modules only; "
            "swat: the robust modules first, alone, then everything; safe-lora: project what was learned onto what alignment changed; "
            "safe-merge: merge it with the model before tuning."
        ),
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="MoGU pairs, as `mogu data build` writes them: safety.pairs.")] = None,
    shares: Annotated[str | None, typer.Option(help="Shares of pairs to try with data-mix, such as 0.05,0.1: safety.shares.")] = None,
    slow_factor: Annotated[
        str | None, typer.Option(help="Shares of the learning rate to try outside the robust modules, such as 0.1: safety.slow_factors.")
    ] = None,
    warm_up: Annotated[
        str | None, typer.Option(help="Shares of the steps to try in which robust modules are trained alone, such as 0.1: safety.warm_ups.")
    ] = None,
    robust_modules: Annotated[Path | None, typer.Option(help="A robustness.json of `mogu robustness`: safety.robust_modules.")] = None,
    unaligned: Annotated[
        str | None, typer.Option(help="The model before it was aligned, for safe-lora and safe-merge: safety.unaligned.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the tuned model: run.output.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    merge_adapter: MergeAdapter = False,
    chat_template: ChatTemplate = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume a run that was stopped from its last checkpoint.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Discard what an earlier run left.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and print what would be done; train nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report, or the plan, as one JSON object.")] = False,
) -> None:
    """Fine-tune a model on conversations, a LoRA or all of it, and measure task and safety before and after.

    Only the assistant's turns are learned, after the same prompts that generation would build. With data-mix several shares of MoGU pairs
    are tried, with ml-lr several slow factors, with swat several warm-ups, with safe-lora and safe-merge several thresholds; held-out
    conversations and pairs decide which is kept.

    Finished parts are kept in a working folder beside the output and never trained twice. The output folder appears at the end, complete,
    with the model card, finetune_report.json, a page of it to read (finetune_report.html) and the loss curve (loss_history.jsonl, and
    loss.png where matplotlib is installed).

    Examples:

    mogu finetune finetuning/qwen2.5-7b-instruct --dry-run

    mogu finetune finetuning/qwen2.5-7b-instruct --safety data-mix --pairs data/pairs.jsonl --shares 0,0.05,0.1

    torchrun --nproc-per-node 8 -m mogu finetune finetuning/qwen2.5-7b-instruct
    """
    paths = {
        "safety.pairs": pairs,
        "safety.robust_modules": robust_modules,
        "safety.unaligned": unaligned,
        "run.output": output,
        "model.chat_template": chat_template,
    }
    lists = {"safety.shares": shares, "safety.slow_factors": slow_factor, "safety.warm_ups": warm_up}
    given = [f"{key}={json.dumps(str(path))}" for key, path in paths.items() if path is not None]
    given += [f"{key}=[{text}]" for key, text in lists.items() if text is not None]
    given += ["model.trust_remote_code=true"] if trust_remote_code else []
    given += ["model.merge_adapter=true"] if merge_adapter else []
    given += [f"safety.method={json.dumps(safety.value)}"] if safety is not None else []
    console = Console(stderr=True)
    with joined():
        check_one_of(resume, restart)
        recipe = read_finetune_recipe(config, [*(settings or []), *given])
        if dry_run:
            on_main(lambda: _dry_run(recipe, as_json=as_json))
            return
        from mogu.finetuning import finetune as run

        with show_log(console), stoppable(console, "Run the same command with --resume to go on from the last checkpoint."):
            report = run(recipe, resume=resume, restart=restart)
        if not is_main():
            return
    if as_json:
        echo(json.dumps(report))
    else:
        _print_report(recipe, report)


def _dry_run(recipe: FinetuneRecipe, *, as_json: bool) -> None:
    from mogu.finetuning import plan_tuning

    plan = plan_tuning(recipe)
    if as_json:
        echo(json.dumps(plan.as_json()))
    else:
        _print_plan(plan)


def _print_plan(plan: TuningPlan) -> None:
    console = Console()
    table = Table("strategy", "examples of conversations", "MoGU pairs", "steps")
    for strategy in plan.strategies:
        table.add_row(strategy.name, f"{strategy.examples:,}", f"{strategy.pairs:,}", f"{strategy.steps:,}")
    console.print(table)
    for line in (
        f"{plan.base_model}: {plan.base_parameters:,} parameters; trained: {plan.trained_parameters:,}",
        f"{plan.conversations:,} conversations to learn from, {plan.held_out:,} held out, {plan.dropped:,} left out as too long",
        f"{plan.learned_tokens:,} tokens are learned per epoch; the longest example has {plan.longest:,} tokens",
        f"memory, at most: {gibibytes(plan.memory_bytes)}",
        *(f"note: {note}" for note in plan.notes),
        "Everything was checked; nothing was trained or written.",
    ):
        console.print(escape(line), highlight=False, soft_wrap=True)


def _print_report(recipe: FinetuneRecipe, report: dict[str, Any]) -> None:
    from mogu.finetuning.report import table as rows
    from mogu.finetuning.report_page import PAGE_FILE

    titles, *lines = rows(report)
    table = Table(*titles)
    for cells in lines:
        table.add_row(*cells)
    console = Console()
    console.print(table)
    output, losses = recipe.run.output, report["loss_plot"] or report["loss_history"]
    for line in (
        f"Kept:   {report['chosen']['name']}",
        f"Model:  {output}",
        f"Report: {output / PAGE_FILE}",
        *([f"Losses: {output / losses}"] if losses is not None else []),
        f"Work:   {recipe.run.work_folder} (may be deleted)",
    ):
        console.print(escape(line), highlight=False, soft_wrap=True)
