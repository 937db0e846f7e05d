"""`mogu probe`: which layers of a model tell benign prompts from malicious ones.

Knows the command line; what is done is in :mod:`mogu.analysis.probing`.
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

from mogu.cli._options import BaseModel, ChatTemplate, Dtype, TrustRemoteCode, dtype_option
from mogu.cli._shared import named_model, named_records, shown_by, stoppable

if TYPE_CHECKING:
    from mogu.analysis import LayerProbe, ProbeResult


class Reading(StrEnum):
    """What of a prompt's activations layers are chosen by."""

    LAST = "last"
    MEAN = "mean"


def probe(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A base model or a saved MoGU model (whose base is probed): folder or hub id; or 'lab'."),
    ],
    data: Annotated[str, typer.Option(help="Records, a .jsonl file as `mogu data build` writes it, a published folder, or 'lab'.")],
    out: Annotated[Path, typer.Option(help="Folder for probe.json, probe.png and the activations.")] = Path("probe"),
    threshold: Annotated[float, typer.Option(help="AUROC from which on a layer is named.")] = 0.9,
    top: Annotated[int | None, typer.Option(help="How many of the best layers are named; by default half of them.")] = None,
    by: Annotated[Reading, typer.Option(help="Choose by the last prompt token, or by the mean over the prompt.")] = Reading.LAST,
    folds: Annotated[int, typer.Option(help="Of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(help="Decides which prompt is in which fold.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts a pass.")] = 16,
    system_prompt: Annotated[
        str | None, typer.Option(help="A system message for prompts that have none; by default the one a saved model was trained with.")
    ] = None,
    output_projection: Annotated[
        str | None, typer.Option(help="Path of the attention output projection in a decoder layer, for an unknown architecture.")
    ] = None,
    base_model: BaseModel = None,
    dtype: Dtype = "auto",
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print probe.json.")] = False,
) -> None:
    """Probe each layer of a model: how well does a straight plane separate benign prompts from malicious ones there?

    What goes into each layer's attention output projection, where MoGU's routers read as well, is read at the last prompt token and as
    the mean over the prompt, one pass a prompt. A cross-validated logistic regression then gives accuracy, AUROC and margin of each
    layer. Layers that separate well are worth routing: they are named, ready for `layers` in a recipe.

    What was read before a kill or Ctrl-C is kept, and the same command goes on from there.

    Examples:

    mogu probe Qwen/Qwen2.5-7B-Instruct --data data/pairs.jsonl --out probe-qwen --top 8

    mogu probe lab --data lab
    """
    records = named_records(data)  # before anything that takes time
    from mogu.analysis import Probe
    from mogu.analysis import probe as run
    from mogu.progress import progress_bars, quiet_transformers
    from mogu.training.report import trained_system_prompt

    wanted = Probe(
        model=named_model(model),
        name=model,
        records=records,
        out=out,
        folds=folds,
        seed=seed,
        by=by.value,
        threshold=threshold,
        top=top,
        batch_size=batch_size,
        system_prompt=system_prompt if system_prompt is not None else trained_system_prompt(Path(model).expanduser()),
        base_model=base_model,
        output_projection=output_projection,
        dtype=dtype_option(dtype),
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
    )
    hint = "The same command goes on from the last batch that was read."
    with stoppable(Console(stderr=True), hint), quiet_transformers(), progress_bars() as bars:
        result = run(wanted, progress=shown_by(bars))
    if as_json:
        typer.echo(json.dumps(result.as_json()))
        return
    _show(result, out)


def _show(result: ProbeResult, out: Path) -> None:
    from mogu.analysis.probing import NUMBERS_FILE, PLOT_FILE

    console = Console(highlight=False)
    if result.base is not None:
        console.print(f"{escape(result.model)} is a hardened model; probed was its base, {escape(result.base)}.", soft_wrap=True)
    table = Table("layer")
    for kind in result.probes:
        for name in ("AUROC", "accuracy", "margin"):
            table.add_column(f"{kind}\n{name}", no_wrap=True)
    for layer in result.probes["last"]:
        table.add_row(str(layer), *(cell for probes in result.probes.values() for cell in _cells(probes[layer])))
    console.print(table)
    choice = result.choice
    where = {"last": "at the last prompt token", "mean": "of the mean over the prompt"}[choice.by]
    reached = f"layers = {list(choice.above)}" if choice.above else "none"
    for line in (
        f"last: at the last prompt token; mean: over the prompt's tokens; ± standard deviation over {result.settings['folds']} folds",
        f"{result.labels['benign']} benign and {result.labels['malicious']} malicious prompts",
        "Chosen, as they stand in a recipe under [mogu]:",
        f"  AUROC {where} at least {choice.threshold:g}: {reached}",
        f"  the {len(choice.top)} best by it: layers = {list(choice.top)}",
        f"Numbers: {out / NUMBERS_FILE}",
        f"Plot:    {out / PLOT_FILE}",
    ):
        console.print(escape(line), soft_wrap=True)


def _cells(probe: LayerProbe) -> list[str]:
    shares = [f"{one.mean:.3f}±{one.spread:.3f}".replace("±0.", "±.") for one in (probe.auroc, probe.accuracy)]
    return [*shares, f"{probe.margin.mean:.2f}"]
