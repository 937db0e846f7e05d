"""`mogu robustness`: which modules of a model its sense of what is malicious depends on, and which can change.

Knows the command line; the work is done in :mod:`mogu.analysis.robustness`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from mogu.errors import ConfigError

if TYPE_CHECKING:
    from mogu.analysis import RobustnessResult
    from mogu.data import Record


class ProxyName(StrEnum):
    """What the proxy is fitted to."""

    RECORDS = "records"
    TWINS = "twins"


def robustness(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A base model or a saved MoGU model (whose base is measured): folder or hub id; or 'lab'."),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Records, a .jsonl file as `mogu data build` writes it, a published folder, 'starter' or 'lab'; "
            "with --proxy twins the project's own prompts by default."
        ),
    ] = None,
    proxy: Annotated[
        ProxyName,
        typer.Option(
            help="What the proxy is fitted to: 'records' as they are, or 'twins', malicious prompts against the same with a word replaced."
        ),
    ] = ProxyName.RECORDS,
    out: Annotated[Path, typer.Option(help="Folder for robustness.json, robustness.png and the measurements.")] = Path("robustness"),
    strength: Annotated[float, typer.Option(help="Norm of the noise, relative to the norm of the weight that it is added to.")] = 1.0,
    draws: Annotated[int, typer.Option(help="Number of times noise is drawn for each module.")] = 3,
    seed: Annotated[int, typer.Option(help="Decides the noise, and which half of the records the proxy is fitted to.")] = 0,
    tolerance: Annotated[
        float, typer.Option(help="Largest drop of all robust modules perturbed together, as a share of the drop of all modules.")
    ] = 0.25,
    batch_size: Annotated[int, typer.Option(help="Number of prompts in one forward pass.")] = 32,
    system_prompt: Annotated[
        str | None,
        typer.Option(help="A system message for prompts that have none; by default the one that a saved model was trained with."),
    ] = None,
    base_model: BaseModel = None,
    dtype: Dtype = "auto",
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print robustness.json.")] = False,
) -> None:
    """Perturb each linear module of a model in turn, and measure how much a proxy of its safety loses.

    The proxy is a linear classifier that separates malicious prompts from benign ones by the hidden state from which the first token of
    the answer is computed. It is fitted once, to records or, as in the paper, to malicious prompts and their benign twins; then noise is
    added to one module after the other. Modules that can be perturbed together without harming the proxy much are the robust subset,
    which secure fine-tuning changes at the full learning rate.

    Measurements made before Ctrl-C or a crash are kept, and the same command resumes from there.

    Examples:

    mogu robustness Qwen/Qwen2.5-7B-Instruct --data data/pairs.jsonl --out robustness-qwen

    mogu robustness Qwen/Qwen2.5-7B-Instruct --proxy twins --out robustness-twins

    mogu robustness lab --data lab
    """
    records = _records(data, proxy)  # before anything that takes time
    from mogu.analysis import Robustness, analyze_robustness
    from mogu.progress import progress_bars, quiet_transformers

    settings = Robustness(
        model=named_model(model),
        name=model,
        records=records,
        out=out,
        proxy=proxy.value,
        strength=strength,
        draws=draws,
        seed=seed,
        tolerance=tolerance,
        batch_size=batch_size,
        system_prompt=system_prompt,
        base_model=base_model,
        dtype=dtype_option(dtype),
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
    )
    hint = "The same command resumes from the last perturbation that was measured."
    with stoppable(Console(stderr=True), hint), quiet_transformers(), progress_bars() as bars:
        result = analyze_robustness(settings, progress=shown_by(bars))
    if as_json:
        echo(json.dumps(result.as_json()))
        return
    _show(result, out)


def _records(data: str | None, proxy: ProxyName) -> Sequence[Record]:
    if data is not None:
        return named_records(data)
    if proxy == ProxyName.TWINS:
        from mogu.data.twins import twin_prompts

        return twin_prompts()
    raise ConfigError("No records are named", expected="benign and malicious ones", action="give --data FILE, or --proxy twins")


def _show(result: RobustnessResult, out: Path) -> None:
    from mogu.analysis.robustness.analysis import NUMBERS_FILE, PLOT_FILE

    console = Console(highlight=False)
    if result.base is not None:
        console.print(f"{escape(result.model)} is a hardened model; its base, {escape(result.base)}, was measured.", soft_wrap=True)
    robustness, robust = result.map, set(result.subset.names)
    modules = robustness.modules
    layers = sorted({module.layer for module in modules})
    cells = {(module.layer, module.module): f"{100 * module.drop:.2f}{'*' if module.name in robust else ' '}" for module in modules}
    paths = list(dict.fromkeys(module.module for module in modules))
    last_names = [path.rpartition(".")[2] for path in paths]
    table = Table("layer")
    for name in last_names if len(set(last_names)) == len(paths) else paths:
        table.add_column(name.replace(".", "\n"), justify="right", no_wrap=True)
    for layer in layers:
        table.add_row(str(layer), *(cells[layer, path] for path in paths))
    console.print(table)
    share = sum(module.parameters for module in modules if module.name in robust) / sum(module.parameters for module in modules)
    for line in (
        "drop in %: how far noise on a module moves prompts, relative to their distance from the decision boundary; *: robust subset",
        f"{robustness.prompts['benign']} benign and {robustness.prompts['malicious']} malicious prompts, half of them held out; "
        f"the proxy's AUROC there is {robustness.auroc:.3f}, its margin {robustness.intact:.2f}",
        f"All modules together: {robustness.together:.2%}",
        f"Robust subset: {len(robust)} of {len(modules)} modules, {share:.0%} of their parameters; "
        f"together {result.subset.drop:.2%}, at most {result.subset.tolerance:g} × {robustness.together:.2%}",
        f"Numbers: {out / NUMBERS_FILE}",
        f"Plot:    {out / PLOT_FILE}",
    ):
        console.print(escape(line), soft_wrap=True)
