"""The `mogu` command: one thin module per subcommand.

A subcommand imports whatever it needs beyond typer and rich only when it runs, so that `--help` is instant.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from mogu import __version__
from mogu.cli import (
    attack,
    calibrate,
    chat,
    compare,
    data,
    demo,
    finetune,
    generate,
    import_reference,
    info,
    models,
    playground,
    probe,
    recipes,
    report,
    reproduce,
    robustness,
    score,
    serve,
    sweep,
    tendency,
    train,
    verify,
)
from mogu.cli._shared import STOPPED_BY_USER, is_interrupt
from mogu.cli._terminal import echo, spell_control_characters
from mogu.cli._threads import share_the_machine
from mogu.errors import MoguError
from mogu.processes import telling_once, told_elsewhere

app = typer.Typer(
    name="mogu",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Harden an open chat model: it refuses malicious requests, answers the rest, and keeps its speed.",
    epilog="New here? `mogu demo` hardens a small open chat model and shows the difference within minutes.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"mogu {__version__}")
        raise typer.Exit


@app.callback()
def _mogu(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a faster way that it did not find, whoever imports it
    if context.invoked_subcommand != "serve":  # it becomes vLLM, which has its own ways with threads
        share_the_machine()


app.command()(demo.demo)
app.add_typer(data.app, name="data")
app.add_typer(recipes.app, name="recipes")
app.add_typer(models.app, name="models")
app.command()(train.train)
app.command()(sweep.sweep)
app.command()(finetune.finetune)
app.command()(compare.compare)
app.command()(attack.attack)
app.command()(report.report)
app.command()(calibrate.calibrate)
app.command()(reproduce.reproduce)
app.command()(probe.probe)
app.command()(score.score)
app.command()(tendency.tendency)
app.command()(robustness.robustness)
app.command()(generate.generate)
app.command()(chat.chat)
app.command()(playground.playground)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve.serve)
app.command()(info.info)
app.command()(verify.verify)
app.command("import-reference")(import_reference.import_reference)


def main() -> None:
    """Run the command line. Bad input ends in one clear error message and exit code 2, however many processes run it."""
    spell_control_characters()
    try:
        app()
    except MoguError as error:
        with telling_once() as told_here:
            if told_here:
                Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(2)
    except (KeyboardInterrupt, RuntimeError) as error:
        if is_interrupt(error):
            sys.exit(STOPPED_BY_USER)
        if told_elsewhere():  # what broke is the tie to the process that told its error
            sys.exit(2)
        raise
