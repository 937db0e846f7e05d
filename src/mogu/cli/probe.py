"""`mogu probe`: which layers of a model separate benign prompts from malicious ones.

Knows the command line; the work is done in :mod:`mogu.analysis.probing`.
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
from mogu.cli._terminal import echo

if TYPE_CHECKING:
    from mogu.analysis import LayerProbe, ProbeResult


class ActivationKind(StrEnum):
    """The kind of activation by which layers are chosen."""

    LAST = "last"
    MEAN = "mean"


def probe(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A base model or a saved MoGU model (whose base is probed): folder or hub id; or 'lab'."),
    ],
    data: Annotated[
        str, typer.Option(help="Records, a .jsonl file as `mogu data build` writes it, a published folder, 'starter' or 'lab'.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for probe.json, probe.png and the activations.")] = Path("probe"),
    threshold: Annotated[float, typer.Option(help="AUROC at which a layer is named.")] = 0.9,
    top: Annotated[int | None, typer.Option(help="How many of the best layers are named; by default half of them.")] = None,
    by: Annotated[
        ActivationKind, typer.Option(help="Choose layers by the last prompt token, or by the mean over the prompt.")
    ] = ActivationKind.LAST,
    folds: Annotated[int, typer.Option(help="Number of folds of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(help="Decides which prompt is in which fold.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of prompts in one forward pass.")] = 16,
    system_prompt: Annotated[
        str | None,
        typer.Option(help="A system message for prompts that have none; by default the one that a saved model was trained with."),
    ] = None,
    output_projection: Annotated[
        str | None, typer.Option(help="Path of the attention output projection in a decoder layer, for unknown architectures.")
    ] = None,
    base_model: BaseModel = None,
    dtype: Dtype = "auto",
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print probe.json.")] = False,
) -> None:
    """Measure how well a linear classifier separates benign prompts from malicious ones in each layer of a model.

    The classifier reads the input of each layer's attention output projection, which MoGU's routers read as well: at the last prompt
    token, and as the mean over the prompt. Each prompt takes one forward pass. A cross-validated logistic regression then gives AUROC,
    accuracy and margin of each layer. Layers that separate well are worth routing: they are listed, ready for `layers` in a recipe.

    Activations that were read before Ctrl-C or a crash are kept, and the same command resumes from there.

    Examples:

    mogu probe Qwen/Qwen2.5-7B-Instruct --data data/pairs.jsonl --out probe-qwen --top 8

    mogu probe lab --data lab
    """
    records = named_records(data)  # before anything that takes time
    from mogu.analysis import Probe
    from mogu.analysis import probe as run
    from mogu.progress import progress_bars, quiet_transformers

    settings = Probe(
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
        system_prompt=system_prompt,
        base_model=base_model,
        output_projection=output_projection,
        dtype=dtype_option(dtype),
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
    )
    hint = "The same command resumes from the last batch that was read."
    with stoppable(Console(stderr=True), hint), quiet_transformers(), progress_bars() as bars:
        result = run(settings, progress=shown_by(bars))
    if as_json:
        echo(json.dumps(result.as_json()))
        return
    _show(result, out)


def _show(result: ProbeResult, out: Path) -> None:
    from mogu.analysis.probing import NUMBERS_FILE, PLOT_FILE

    console = Console(highlight=False)
    if result.base is not None:
        console.print(f"{escape(result.model)} is a hardened model; its base, {escape(result.base)}, was probed.", soft_wrap=True)
    table = Table("layer")
    for kind in result.probes:
        for metric in ("AUROC", "accuracy", "margin"):
            table.add_column(f"{kind}\n{metric}", no_wrap=True)
    for layer in result.probes["last"]:
        table.add_row(str(layer), *(cell for probes in result.probes.values() for cell in _cells(probes[layer])))
    console.print(table)
    choice = result.choice
    location = {"last": "at the last prompt token", "mean": "of the mean over the prompt"}[choice.by]
    reached = f"layers = {list(choice.above)}" if choice.above else "none"
    for line in (
        f"last: at the last prompt token; mean: over the prompt's tokens; ± standard deviation over {result.settings['folds']} folds",
        f"{result.labels['benign']} benign and {result.labels['malicious']} malicious prompts",
        "Chosen layers, as a recipe has them under [mogu]:",
        f"  AUROC {location} at least {choice.threshold:g}: {reached}",
        f"  the {len(choice.top)} best by it: layers = {list(choice.top)}",
        f"Numbers: {out / NUMBERS_FILE}",
        f"Plot:    {out / PLOT_FILE}",
    ):
        console.print(escape(line), soft_wrap=True)


def _cells(probe: LayerProbe) -> list[str]:
    shares = [f"{metric.mean:.3f}±{metric.std:.3f}".replace("±0.", "±.") for metric in (probe.auroc, probe.accuracy)]
    return [*shares, f"{probe.margin.mean:.2f}"]
