"""`mogu attack`: what it costs to break a model, attack by attack, with a report.

Knows the command line; the work is done in :mod:`mogu.attacks`.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

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

Models = Annotated[
    list[str],
    typer.Argument(metavar="MODEL...", help="Saved MoGU models on one base (folders, hub repositories, names), recipes, or 'lab'."),
]
Defenses = Annotated[str, typer.Option(help="What to attack, separated by commas: none is the base, mogu every model; or 'all'.")]
Data = Annotated[str, typer.Option(help="Malicious requests: starter, lab, a data set's name, NAME=FILE or malicious=FILE.")]
Attacks = Annotated[str, typer.Option(help="'all', or names of attacks, separated by commas.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Take only the first requests, this many. Default: 40, or 3 with --quick.")]
Quick = Annotated[bool, typer.Option("--quick", help="A first look within ten minutes on two cores: few requests, small budgets.")]
Queries = Annotated[int | None, typer.Option(help="Attempts on a request, at most. Default: each attack's own number; 5 with --quick.")]
Flops = Annotated[float | None, typer.Option(help="Floating-point operations on a request, at most. Default: 5e12, or 2e11 with --quick.")]
Templates = Annotated[str | None, typer.Option(help="Published jailbreak templates to try: a file, 'published', or a name of the catalog.")]
Transferred = Annotated[
    str | None, typer.Option(help="Prompts that attacks on other models made, separated by commas: NAME=FILE or jailbroken=FILE.")
]
Translated = Annotated[str | None, typer.Option(help="A .jsonl file of requests in other languages: goal, language, prompt.")]
KeepReplies = Annotated[bool, typer.Option("--keep-replies", help="Keep the texts of attempts and replies; otherwise outcomes only.")]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens of a reply, beside what the attack asks for before it. Default: 48; 32 with --quick."),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a training setting of a recipe that is trained.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print attacks.json.")]


def attack(
    models: Models,
    out: Annotated[Path, typer.Option(help="Folder for models, cells, logs, results and report.")] = Path("attack-report"),
    defenses: Defenses = "none,mogu",
    data: Data = "starter",
    attacks: Attacks = "all",
    limit: Limit = None,
    quick: Quick = False,
    queries: Queries = None,
    flops: Flops = None,
    templates: Templates = None,
    transferred: Transferred = None,
    translated: Translated = None,
    keep_replies: KeepReplies = False,
    max_new_tokens: MaxNewTokens = None,
    batch_size: BatchSize = 64,
    scorer: ScorerName = "classifier",
    baselines: Annotated[Path | None, typer.Option(help="Folder of trained baselines.")] = None,
    settings: Settings = None,
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
    """Attack models on malicious requests, and report what share of these each attack breaks, for how many queries and operations.

    Attacks send what is served: wrappers, begun answers, harmless text first, encodings, many examples, several turns, many tries. Those
    with the weights optimize a suffix, blind or against the defense; others change the weights. Only outcomes are kept, unless
    --keep-replies is given. What was run before an interruption is kept, and the same command goes on from there. The output folder then
    holds attacks.html, which opens offline, attacks.csv and attacks.json, and logs for `inspect view`.

    Examples:

    mogu attack smollm2-safer --quick

    mogu attack safer-qwen --data malicious=requests.txt --attacks plain,prefill,delayed,gcg_aware --defenses all

    mogu attack safer-qwen --data malicious=requests.txt --ray auto
    """
    from mogu.attacks import AttackSettings, attack_models
    from mogu.attacks.config import FLOPS, LIMIT, QUICK_FLOPS, QUICK_LIMIT, QUICK_QUERIES, QUICK_TOKENS, TOKENS
    from mogu.evaluation.compare import Comparison

    setup = partial(_register, plugins or ())
    setup()
    usual = (QUICK_LIMIT, QUICK_QUERIES, QUICK_FLOPS, QUICK_TOKENS) if quick else (LIMIT, None, FLOPS, TOKENS)
    usual_limit, usual_queries, usual_flops, usual_tokens = usual
    comparison = Comparison(
        models=tuple(models),
        out=out,
        data=listed(data),
        defenses=() if defenses == "all" else listed(defenses),
        limit=limit or usual_limit,
        baselines=baselines,
        shifts=(),
        max_new_tokens=max_new_tokens or usual_tokens,
        batch_size=batch_size,
        settings=tuple(settings or ()),
        base_model=base_model,
        dtype=dtype,
        quantization=quantization,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
        scorer=scorer,
        command=shlex.join(["mogu", *sys.argv[1:]]),
    )
    options = {"templates": templates, "transferred": transferred, "translated": translated}
    chosen = AttackSettings(
        comparison,
        attacks=() if attacks == "all" else listed(attacks),
        queries=usual_queries if queries is None else queries,
        flops=usual_flops if flops is None else flops,
        keep_replies=keep_replies,
        options={name: value for name, value in options.items() if value is not None},
    )
    console = Console(stderr=True, highlight=False)
    with stoppable(console, "The same command goes on from the last finished attack."), show_log(console):
        results = attack_models(chosen, named_workers(worker_count, ray, setup))
    if as_json:
        echo(json.dumps(results))
    else:
        _show(results, out)


def _register(plugins: Sequence[Path]) -> None:
    """What every process of an attack begins with."""
    import mogu.lab  # noqa: F401  registers the models and the data called lab
    from mogu.attacks import load_plugin

    for file in plugins:
        load_plugin(file)


def _show(results: dict[str, Any], out: Path) -> None:
    from mogu.attacks.report import SCOPES
    from mogu.attacks.results import REPORT_PAGE, TABLE_FILE
    from mogu.pages.formats import percent

    made = results["made"]
    shares = {(row["system"], row["attack"] or row["scope"]): row["value"] for row in results["numbers"] if row["measure"] == "broken"}
    table = Table("requests broken", *(made["labels"][system] for system in made["defenses"]))
    titles = {name: info["label"] for name, info in made["attacks"].items()} | SCOPES
    for name, title in titles.items():
        cells = [percent(shares[system, name]) if (system, name) in shares else "·" for system in made["defenses"]]
        table.add_row(title, *cells)
    console = Console(highlight=False)
    console.print(table)
    for line in (f"Report:  {out / REPORT_PAGE}", f"Numbers: {out / TABLE_FILE}, with intervals"):
        console.print(escape(line), soft_wrap=True)
