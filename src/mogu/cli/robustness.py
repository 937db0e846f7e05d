"""`mogu robustness`: which modules of a model its sense of what is malicious hangs on, and which can change.

Knows the command line; what is done is in :mod:`mogu.analysis.robustness`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mogu.cli._options import BaseModel, ChatTemplate, Dtype, TrustRemoteCode, dtype_option
from mogu.cli._shared import named_model, named_records, shown_by, stoppable

if TYPE_CHECKING:
    from mogu.analysis import RobustnessResult


def robustness(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A base model or a saved MoGU model (whose base is measured): folder or hub id; or 'lab'."),
    ],
    data: Annotated[str, typer.Option(help="Records, a .jsonl file as `mogu data build` writes it, a published folder, or 'lab'.")],
    out: Annotated[Path, typer.Option(help="Folder for robustness.json, robustness.png and what is measured.")] = Path("robustness"),
    strength: Annotated[float, typer.Option(help="Norm of the noise, relative to the norm of the weight that it is added to.")] = 1.0,
    draws: Annotated[int, typer.Option(help="How many times noise is drawn for each module.")] = 3,
    seed: Annotated[int, typer.Option(help="Decides the noise, and which half of the records the proxy is fitted to.")] = 0,
    tolerance: Annotated[
        float, typer.Option(help="What the proxy may suffer from the robust modules together, as a share of what it suffers from all.")
    ] = 0.25,
    batch_size: Annotated[int, typer.Option(help="Prompts a pass.")] = 32,
    system_prompt: Annotated[
        str | None, typer.Option(help="A system message for prompts that have none; by default the one a saved model was trained with.")
    ] = None,
    base_model: BaseModel = None,
    dtype: Dtype = "auto",
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print robustness.json.")] = False,
) -> None:
    """Perturb each linear module of a model in turn: how much does a proxy of its safety suffer, and which modules can it spare?

    The proxy is a straight plane that tells malicious prompts from benign ones by the hidden state that the first token of the answer
    is read from. It is fitted once, and then noise is put on one module after the other. Modules that can be perturbed together
    without the proxy suffering much are the robust subset: those that secure fine-tuning changes at the full learning rate.

    What was measured before a kill or Ctrl-C is kept, and the same command goes on from there.

    Examples:

    mogu robustness Qwen/Qwen2.5-7B-Instruct --data data/pairs.jsonl --out robustness-qwen

    mogu robustness lab --data lab
    """
    records = named_records(data)  # before anything that takes time
    from mogu.analysis import Robustness, chart_robustness
    from mogu.progress import progress_bars, quiet_transformers
    from mogu.training.report import trained_system_prompt

    wanted = Robustness(
        model=named_model(model),
        name=model,
        records=records,
        out=out,
        strength=strength,
        draws=draws,
        seed=seed,
        tolerance=tolerance,
        batch_size=batch_size,
        system_prompt=system_prompt if system_prompt is not None else trained_system_prompt(Path(model).expanduser()),
        base_model=base_model,
        dtype=dtype_option(dtype),
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
    )
    hint = "The same command goes on from the last perturbation that was measured."
    with stoppable(Console(stderr=True), hint), quiet_transformers(), progress_bars() as bars:
        result = chart_robustness(wanted, progress=shown_by(bars))
    if as_json:
        typer.echo(json.dumps(result.as_json()))
        return
    _show(result, out)


def _show(result: RobustnessResult, out: Path) -> None:
    from mogu.analysis.robustness.analysis import NUMBERS_FILE, PLOT_FILE

    console = Console(highlight=False)
    if result.base is not None:
        console.print(f"{escape(result.model)} is a hardened model; measured was its base, {escape(result.base)}.", soft_wrap=True)
    found, robust = result.map, set(result.subset.names)
    layers = sorted({one.layer for one in found.modules})
    cells = {(one.layer, one.module): f"{100 * one.drop:.2f}{'*' if one.name in robust else ' '}" for one in found.modules}
    paths = list(dict.fromkeys(one.module for one in found.modules))
    short = [path.rpartition(".")[2] for path in paths]
    table = Table("layer")
    for name in short if len(set(short)) == len(paths) else paths:
        table.add_column(name.replace(".", "\n"), justify="right", no_wrap=True)
    for layer in layers:
        table.add_row(str(layer), *(cells[layer, path] for path in paths))
    console.print(table)
    held = sum(one.parameters for one in found.modules if one.name in robust)
    share = held / sum(one.parameters for one in found.modules)
    for line in (
        "drop in %: how far noise on a module throws prompts, against how far the proxy holds them from its plane; *: robust subset",
        f"{found.prompts['benign']} benign and {found.prompts['malicious']} malicious prompts, half of them held out; "
        f"proxy's AUROC there {found.auroc:.3f}, margin {found.intact:.2f}",
        f"All modules together: {found.together:.2%}",
        f"Robust subset: {len(robust)} of {len(found.modules)} modules, {share:.0%} of their parameters; "
        f"together {result.subset.drop:.2%}, at most {result.subset.tolerance:g} × {found.together:.2%}",
        f"Numbers: {out / NUMBERS_FILE}",
        f"Plot:    {out / PLOT_FILE}",
    ):
        console.print(escape(line), soft_wrap=True)
