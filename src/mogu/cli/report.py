"""`mogu report`: several runs on one page; it reads what they left, and runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Output folders of train, finetune, compare or attack, or folders of such folders."),
    ],
    output: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("overview.html"),
) -> None:
    """Write one page about several runs: what each found, in a sentence, with a link to its own page.

    Example: mogu report safer-model report attacks --output overview.html
    """
    from mogu.overview import find_runs, write_overview

    runs = find_runs(folders)
    write_overview(runs, output)
    typer.echo(f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}: {output}")
