"""`mogu compare`: what defenses and hardened models gain and cost, side by side, with a report.

Knows the command line; the work is done in :mod:`mogu.evaluation.compare`.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mogu.cli._options import (
    BaseModel,
    BatchSize,
    ChatTemplate,
    Dtype,
    Plugins,
    Quantization,
    RayAddress,
    ScorerName,
    TrustRemoteCode,
    WorkerCount,
)
from mogu.cli._shared import listed, named_workers, show_log, stoppable
from mogu.cli._terminal import echo

if TYPE_CHECKING:
    from mogu.evaluation.compare import Results

Data = Annotated[
    str,
    typer.Option(
        help="Prompts, separated by commas: lab, starter, a data set's name (advbench, xstest, ...) or NAME=FILE, "
        "a .jsonl file of records, benign=FILE, borderline=FILE or malicious=FILE."
    ),
]
Defenses = Annotated[str, typer.Option(help="'all', or names of defenses and models, separated by commas; 'mogu' is every model.")]
Limit = Annotated[int | None, typer.Option(help="Take only the first prompts of each kind of each data set, this many.")]
Seeds = Annotated[int, typer.Option(help="How many seeds to train and draw with.")]
Jailbreaks = Annotated[
    str | None,
    typer.Option(
        help="Ask each plain prompt in a jailbreak as well: 'own', 'published', tendency=FILE (or tendency-2, -once, -around), "
        "or a file of templates."
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a training setting, such as glad.epochs=3.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Tokens of a reply; a refusal shows in its first sentence.")]
Judge = Annotated[str | None, typer.Option(help="Let a model rate the replies as well, named as in Inspect, such as openai/gpt-4o.")]
Guard = Annotated[str | None, typer.Option(help="Ask a guard as well which replies are unsafe, such as hf/meta-llama/Llama-Guard-3-8B.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print results.json.")]


def compare(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Saved MoGU models on one base (folders or hub repositories), or 'lab'.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for models, cells, logs, results and report.")] = Path("report"),
    defenses: Defenses = "all",
    data: Data = "lab",
    limit: Limit = None,
    jailbreaks: Jailbreaks = None,
    seeds: Seeds = 5,
    tendency: Annotated[
        str | None,
        typer.Option(help="Correlate the base model's tendency with the outcomes: 'own' openings, or a JSON file."),
    ] = None,
    baselines: Annotated[Path | None, typer.Option(help="Folder of trained baselines.")] = None,
    shifts: Annotated[
        str, typer.Option(help="Also measure the first model with its dial turned this far from its own setting; '' for none.")
    ] = "-2,-1,0.5,1,1.5,2,3",
    max_new_tokens: MaxNewTokens = 48,
    batch_size: BatchSize = 32,
    settings: Settings = None,
    judge: Judge = None,
    scorer: ScorerName = "classifier",
    guard: Guard = None,
    plugins: Plugins = None,
    base_model: BaseModel = None,
    dtype: Dtype = "auto",
    quantization: Quantization = "auto",
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
    worker_count: WorkerCount = None,
    ray: RayAddress = None,
    as_json: AsJson = False,
) -> None:
    """Measure defenses and hardened models side by side: what they refuse, what they answer, what they cost.

    Every defense and model replies to every data set under each seed. What was trained and measured before an interruption is kept,
    and the same command goes on from there. The output folder then holds report.html, which opens offline, results.csv and
    results.json with a 95 % interval for every number, and logs for `inspect view`.

    Several models must share their base model; the report is about the first one, and shows how the others differ from it.
    'lab' stands for MoGU, MoGU V2 and gated MoGU on the lab's model. They and the baselines are trained for every seed, which takes about
    eight minutes a seed on two cores.

    Examples:

    mogu compare lab --seeds 1

    mogu compare safer-qwen safer-qwen-v2 --data advbench=advbench.csv,xstest --jailbreaks own --limit 100 --seeds 1

    mogu compare qwen2.5-7b-instruct --data starter --seeds 3 --ray auto
    """
    from mogu.evaluation.compare import Comparison
    from mogu.evaluation.compare import compare as run

    setup = partial(_register, plugins or ())
    setup()
    comparison = Comparison(
        models=tuple(models),
        out=out,
        defenses=() if defenses == "all" else listed(defenses),
        data=listed(data),
        limit=limit,
        jailbreaks=jailbreaks,
        seeds=seeds,
        tendency=tendency,
        baselines=baselines,
        shifts=_numbers(shifts),
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        settings=tuple(settings or ()),
        judge=judge,
        scorer=scorer,
        guard=guard,
        base_model=base_model,
        dtype=dtype,
        quantization=quantization,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
        command=shlex.join(["mogu", *sys.argv[1:]]),
    )
    console = Console(stderr=True, highlight=False)
    with stoppable(console, "The same command goes on from the last finished cell."), show_log(console):
        results = run(comparison, named_workers(worker_count, ray, setup))
    close(results, out, as_json=as_json)


def _register(plugins: Sequence[Path]) -> None:
    """What every process of a comparison begins with."""
    import mogu.lab  # noqa: F401  registers the models and the data called lab
    from mogu.defenses import load_plugin

    for file in plugins:
        load_plugin(file)


def close(results: Results, out: Path, *, as_json: bool) -> None:
    """Show the results of a comparison, and where they are."""
    if as_json:
        echo(json.dumps(results.as_json()))
        return
    from mogu.evaluation.compare import REPORT_PAGE, TABLE_FILE
    from mogu.evaluation.compare.report import RATE_COLUMNS
    from mogu.evaluation.compare.report.labels import CATEGORIES
    from mogu.pages.formats import percent

    rows = [metric.as_row() for metric in results.numbers if metric.dataset == "all" and metric.shift is None]
    by_key = {(row["defense"], row["category"], row["measure"]): row for row in rows if row["section"] in ("rate", "cost")}
    columns = [column for column in RATE_COLUMNS if any(key[1:] == column for key in by_key)]
    table = Table("defense", *(f"{CATEGORIES[category]} {measure}" for category, measure in columns), "added latency")
    for name in results.made["defenses"]:
        cells = [by_key[name, category, measure] for category, measure in columns]
        added = by_key.get((name, "all", "added_latency"))
        shown = [percent(row["value"]) for row in cells]
        table.add_row(results.made["labels"][name], *shown, percent(added["value"]) if added else "")
    console = Console(highlight=False)
    console.print(table)
    for line in (
        f"On the frontier: {', '.join(results.frontier)}",
        f"Report:  {out / REPORT_PAGE}",
        f"Numbers: {out / TABLE_FILE}, with intervals",
    ):
        console.print(escape(line), soft_wrap=True)


def _numbers(text: str) -> tuple[float, ...]:
    from mogu.errors import ConfigError

    try:
        return tuple(float(part) for part in listed(text))
    except ValueError as error:
        raise ConfigError(f"--shifts is {text!r}", expected="numbers separated by commas, such as -1,0.5,1", action="correct it") from error
