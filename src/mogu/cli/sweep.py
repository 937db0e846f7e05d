"""`mogu sweep`: a recipe carried out with each combination of some settings, and a table of what came of it.

Knows the command line; the work is done in :mod:`mogu.training.sweep`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mogu.cli._options import RayAddress, WorkerCount
from mogu.cli._shared import named_workers, show_log, stoppable
from mogu.cli._terminal import echo


def sweep(
    recipe: Annotated[Path, typer.Argument(help="The recipe: a TOML file, or the name of one that ships with mogu (mogu recipes ls).")],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            metavar="KEY=VALUE,VALUE",
            help="Values of a setting to try, such as unwill.epochs=3,5; may be repeated: every combination is trained.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds each combination is trained with.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for models, cells and table.")] = Path("sweep"),
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of every training; may be repeated.")
    ] = None,
    worker_count: WorkerCount = None,
    ray: RayAddress = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print sweep.json.")] = False,
) -> None:
    """Carry out a recipe with each combination of some settings, under several seeds, and table what the models do on the dev records.

    Each training is one of `mogu train`, with a model folder of its own. What was trained before an interruption is kept: the same
    command goes on from there, and one with more values or seeds trains what is new. The output folder then holds sweep.csv and
    sweep.json, with the mean over seeds of every measure, its standard deviation, and the base model's.

    Examples:

    mogu sweep qwen2.5-7b-instruct --vary unwill.epochs=3,5 --vary mogu.rank=8,16 --seeds 3

    mogu sweep smollm2 --vary unwill.learning_rate=1e-4,3e-4 --out rates --workers 2
    """
    from mogu.training.sweep import Sweep
    from mogu.training.sweep import sweep as run

    console = Console(stderr=True, highlight=False)
    asked = Sweep(recipe, out, tuple(vary or ()), seeds, tuple(settings or ()))
    with stoppable(console, "The same command goes on from the last checkpoint of each training."), show_log(console):
        results = run(asked, named_workers(worker_count, ray))
    if as_json:
        echo(json.dumps(results))
    else:
        _show(results, out)


def _show(results: Mapping[str, Any], out: Path) -> None:
    from mogu.training.sweep_table import MEASURES, TABLE_FILE, best

    rows = results["points"]
    keys = [setting.partition("=")[0] for setting in rows[0]["settings"]]
    measures = [name for name in MEASURES if any(name in row for row in rows)]
    table = Table(*map(escape, keys), *(name.replace("_", " ") for name in measures))
    for row in rows:
        values = [escape(setting.partition("=")[2]) for setting in row["settings"]]
        table.add_row(*values, *(_percent(row[name]) if name in row else "" for name in measures))
    console = Console(highlight=False)
    console.print(table)
    for line in (
        f"Highest balanced accuracy: {', '.join(best(rows)['settings']) or 'the recipe'}",
        f"Models:  {out / 'models'}",
        f"Numbers: {out / TABLE_FILE}",
    ):
        console.print(escape(line), soft_wrap=True)


def _percent(measure: Mapping[str, float | None]) -> str:
    mean, deviation = measure["mean"], measure["deviation"]
    return f"{mean:.1%}" + (f" ± {100 * deviation:.1f}" if deviation is not None else "")
