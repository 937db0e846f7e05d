"""`mogu tendency`: how a model leans on instructions before it answers, to affirm or to refuse.

Knows the command line; what is done is in :mod:`mogu.analysis`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from mogu.cli._options import BaseModel, ChatTemplate, Dial, Dtype, TrustRemoteCode
from mogu.cli._shared import stoppable

if TYPE_CHECKING:
    from mogu.analysis.instructions import Listed
    from mogu.analysis.tendency_ranking import Ranking
    from mogu.defenses import TargetModel
    from mogu.evaluation.correlation import Compared, Correlation

LAB = "lab"
CORRELATION_FILE = "correlation.json"
_SHOWN = 200  # characters of an instruction that the table gets; it shows as many as fit


def tendency(
    path: Annotated[
        str, typer.Argument(metavar="MODEL", help="A base model or a saved MoGU model: folder or hub id; 'lab' is the lab's base.")
    ],
    file: Annotated[
        str, typer.Argument(help="Records (.jsonl), or a list of instructions (.txt, .csv, .jsonl); 'lab' is the lab's test prompts.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for what is measured, tendency.json and tendency.png.")] = Path("tendency"),
    routing: Annotated[
        str | None, typer.Option(help="Of a MoGU model: 'on', as it decodes, or 'off', its base. Default: on where there is routing.")
    ] = None,
    openings: Annotated[
        Path | None, typer.Option(help='JSON with lists "affirm" and "refuse" that are added to the project\'s own.')
    ] = None,
    comparison: Annotated[
        Path | None, typer.Option(help="Output folder of a `mogu compare` on the same prompts: correlate with attack success and score.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="The column of a list that holds the instruction.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many of either end the table shows.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts a pass; then each stands in memory once for every opening.")] = 8,
    dial: Dial = None,
    base_model: BaseModel = None,
    dtype: Dtype = "auto",
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print tendency.json.")] = False,
) -> None:
    """Rank instructions by how the model leans on them: mean log-probability of openings that comply, minus that of openings that refuse.

    Nothing is generated. Numbers are in nats per token; positive leans to affirm. What is measured is kept as it comes: after a kill or
    Ctrl-C the same command goes on, and an instruction that was measured with the same model and settings is not measured again.

    Examples:

    mogu tendency safer-qwen data/pairs.dev.jsonl --out tendency

    mogu tendency safer-qwen data/pairs.dev.jsonl --routing off --out tendency-base
    """
    from mogu.analysis.answer_openings import Openings, read_openings
    from mogu.analysis.tendency_ranking import check_folder, rank, write
    from mogu.files.json_files import write_json
    from mogu.progress import progress_bars, quiet_transformers

    check_folder(out)
    banks = read_openings(openings) if openings is not None else Openings()
    listed = _listed(file, column)
    compared = _compared(comparison, listed) if comparison is not None else None
    console = Console(stderr=True, highlight=False)
    with stoppable(console, "The same command goes on from the last finished batch."), quiet_transformers():
        subject = _load(path, base_model, dtype, chat_template, trust_remote_code)
        model, mode = _routed(subject, routing, dial)
        made: dict[str, Any] = {"model": path, "file": file, "routing": mode}
        if mode == "on":
            config = model.mogu_config
            made |= {"dial": config.dial, "routed_tokens": config.routed_tokens, "handoff": config.handoff}
        with progress_bars() as bars:
            task = bars.add_task("measuring", total=len(listed), note="")
            ranking = rank(
                model,
                subject.tokenizer,
                listed,
                banks,
                out,
                system_prompt=subject.system_prompt,
                made=made,
                batch_size=batch_size,
                advance=lambda done: bars.advance(task, done),
            )
        plotted = write(ranking, out)
    found = compared.correlations([(row.listed.id, row.listed.label, row.leaning.tendency) for row in ranking.rows]) if compared else []
    if compared is not None:
        write_json(out / CORRELATION_FILE, [one.as_json() for one in found])
    if as_json:
        typer.echo(json.dumps(ranking.as_json(), ensure_ascii=False))
        return
    _show(ranking, top)
    if found:
        _show_correlations(found)
    console.print(
        f"Written to {escape(str(out))}." + ("" if plotted else ' A histogram needs matplotlib: pip install "mogu[eval]".'), soft_wrap=True
    )


def _listed(file: str, column: str | None) -> list[Listed]:
    from mogu.analysis.instructions import Listed, read_listed

    if file == LAB:
        from mogu.lab import prompts

        return [Listed.plain(one.id, one.category, one.instruction) for one in prompts("test")]
    return read_listed(Path(file).expanduser(), column)


def _compared(folder: Path, listed: list[Listed]) -> Compared:
    from mogu.evaluation.correlation import read_compared

    return read_compared(folder, [one.id for one in listed])


def _load(path: str, base_model: str | None, dtype: str, chat_template: Path | None, trust_remote_code: bool) -> TargetModel:
    import torch

    from mogu.cli._options import dtype_option
    from mogu.defenses import TargetModel
    from mogu.lab import build_base
    from mogu.training.report import trained_system_prompt

    return TargetModel.load(
        build_base() if path == LAB else path,
        base_model=base_model,
        chat_template=chat_template,
        system_prompt=trained_system_prompt(Path(path).expanduser()),
        trust_remote_code=trust_remote_code,
        dtype=dtype_option(dtype) or "auto",
        device_map={"": "cuda" if torch.cuda.is_available() else "cpu"},
    )


def _routed(subject: TargetModel, routing: str | None, dial: float | None) -> tuple[Any, str]:
    """The model to measure, in its mode, and the mode's name."""
    from mogu.errors import ConfigError

    if routing not in (None, "on", "off"):
        raise ConfigError(f"--routing is {routing!r}", expected="'on' or 'off'", action="choose one of them")
    if subject.mogu is None:
        if routing == "on" or dial is not None:
            given = "--dial" if dial is not None else "--routing on"
            raise ConfigError(f"{given} was given for a base model", expected="a saved MoGU model", action=f"leave {given} out")
        return subject.base, "off"
    if routing == "off":
        return subject.base, "off"
    if dial is not None:
        subject.mogu.dial = dial
    return subject.mogu, "on"


def _show(ranking: Ranking, top: int) -> None:
    console = Console(highlight=False)
    labels = Table("label", "instructions", "mean tendency", "median", "leaning to affirm")
    for label, found in ranking.as_json()["labels"].items():
        labels.add_row(escape(label), f"{found['n']}", f"{found['mean']:+.3f}", f"{found['median']:+.3f}", f"{found['affirming']:.1%}")
    fixed = [Column(name, no_wrap=True) for name in ("rank", "tendency", "affirm", "refuse", "label")]
    table = Table(*fixed, Column("instruction", no_wrap=True, overflow="ellipsis", ratio=1), expand=True)
    places = range(1, len(ranking.rows) + 1)
    shown = [place for place in places if place <= top or place > len(places) - top]
    for before, place in zip([0, *shown], shown, strict=False):
        if place > before + 1:
            table.add_row(*["…"] * 6)
        row = ranking.rows[place - 1]
        leaning = row.leaning
        numbers = (f"{leaning.tendency:+.3f}", f"{leaning.affirm_mean:.3f}", f"{leaning.refuse_mean:.3f}")
        table.add_row(str(place), *numbers, escape(row.listed.label), escape(_short(row.listed.instruction)))
    console.print(labels)
    console.print(table)


def _short(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(text.split()))[:_SHOWN]


def _show_correlations(found: list[Correlation]) -> None:
    table = Table("correlated with", "prompts", "n", "Spearman's ρ", "95 % interval")
    for one in found:
        what = "MoGU's score" if one.measure == "score" else f"attack success, {'no defense' if one.defense == 'none' else 'MoGU'}"
        estimate = one.estimate
        known = not math.isnan(estimate.value)
        numbers = (f"{estimate.value:+.2f}", f"{estimate.low:+.2f} to {estimate.high:+.2f}") if known else ("none: all did the same", "")
        table.add_row(what, escape(one.category), str(estimate.n), *numbers)
    Console(highlight=False).print(table)
