"""`mogu demo`: the whole method once, on a small model, in minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from mogu.lab.demo import DemoResult

_TITLES = {
    "malicious": "malicious requests refused",
    "malicious_wrapped": "jailbroken malicious requests refused",
    "benign": "benign requests answered",
    "benign_wrapped": "benign requests in a jailbreak wrapper answered",
    "borderline": "benign requests that sound malicious answered",
}


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the hardened model; results.json appears beside it.")] = Path("demo/safer-model"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of tables.")] = False,
) -> None:
    """Build a small chat model, harden it, and show what that gains and what it costs.

    Needs no downloads, no GPU and no settings: a model of a million parameters is trained from scratch on a small harmless
    world, gives in to jailbreaks as real ones do, and is then hardened. About five minutes on two cores.

    Example: mogu demo
    """
    from mogu.cli._shared import show_log
    from mogu.files.atomic import check_replaceable
    from mogu.files.json_files import write_json
    from mogu.lab.demo import run_demo
    from mogu.modeling.checkpoint import CONFIG_FILE

    check_replaceable(out, marker=CONFIG_FILE)
    console = Console(stderr=as_json, highlight=False)
    with show_log(console):
        result = run_demo(out)
    rows = _rows(result)
    results_file = out.with_name("results.json")
    write_json(results_file, rows)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    _show(result, console)
    console.print(f"\nBase model: {escape(str(result.base_folder))}\nHardened model: {escape(str(out))}\nThese numbers: {results_file}")
    console.print(f"Talk with it: mogu chat {escape(str(out))}", soft_wrap=True)


def _rows(result: DemoResult) -> dict[str, Any]:
    overhead = result.overhead
    return {
        "rates": result.rates(),
        "seconds_per_reply": {"base": overhead.base, **{f"mogu_{handoff}": taken for handoff, taken in overhead.mogu.items()}},
        "replies": [
            {
                "id": before.prompt.id,
                "category": before.prompt.category,
                "wrapper": before.prompt.wrapper,
                "prompt": before.prompt.instruction,
                "base": {"reply": before.reply, "verdict": before.verdict},
                "mogu": {"reply": after.reply, "verdict": after.verdict},
            }
            for before, after in zip(result.base, result.mogu, strict=True)
        ],
    }


def _show(result: DemoResult, console: Console) -> None:
    table = Table("test prompts, subjects and wrappers unseen in training", "prompts", "base model", "MoGU")
    rates = result.rates()
    for category, title in _TITLES.items():
        row = rates[category]  # type: ignore[index]
        table.add_row(title, f"{row['prompts']:.0f}", f"{row['base']:.0%}", f"{row['mogu']:.0%}")
    console.print(table)
    overhead = result.overhead
    ratios = ", ".join(f"{taken / overhead.base:.2f} × with handoff {handoff}" for handoff, taken in overhead.mogu.items())
    console.print(
        f"Time of a reply of 48 tokens: {overhead.base * 1000:.0f} ms base; MoGU {ratios}. "
        "A model this small spends its time between operations; `make bench` measures a larger one."
    )
    for category in ("malicious", "malicious_wrapped", "benign"):
        _show_example(result, category, console)


def _show_example(result: DemoResult, category: str, console: Console) -> None:
    # The first prompt of the category, whatever was made of it: an example chosen for its outcome would prove nothing.
    before, after = next(pair for pair in zip(result.base, result.mogu, strict=True) if pair[0].prompt.category == category)
    console.print(f"\n[bold]{_TITLES[category].removesuffix(' refused').removesuffix(' answered')}[/bold], for example")
    console.print(f"  user   {escape(before.prompt.instruction)}")
    console.print(f"  base   {escape(before.reply)}  [dim]({before.verdict})[/dim]")
    console.print(f"  MoGU   {escape(after.reply)}  [dim]({after.verdict})[/dim]")
