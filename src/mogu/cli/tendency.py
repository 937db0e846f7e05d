"""`mogu tendency`: whether a model tends to affirm or to refuse instructions, measured before it answers.

Knows the command line; the work is done in :mod:`mogu.analysis`.
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

from mogu.cli._options import BaseModel, ChatTemplate, Dial, Dtype, Quantization, TrustRemoteCode
from mogu.cli._shared import stoppable
from mogu.cli._terminal import echo

if TYPE_CHECKING:
    from mogu.analysis.labeled_instructions import LabeledInstruction
    from mogu.analysis.tendency_ranking import TendencyRanking
    from mogu.defenses import TargetModel
    from mogu.evaluation.correlation import Compared, Correlation

LAB = "lab"
CORRELATION_FILE = "correlation.json"
_SHOWN = 200  # characters of an instruction that go into the table, which shows as many as fit


def tendency(
    path: Annotated[
        str, typer.Argument(metavar="MODEL", help="A base model or a saved MoGU model: folder or hub id; 'lab' is the lab's base.")
    ],
    file: Annotated[
        str, typer.Argument(help="Records (.jsonl), or a list of instructions (.txt, .csv, .jsonl); 'lab' is the lab's test prompts.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for tendency.json, tendency.png and the measurements.")] = Path("tendency"),
    routing: Annotated[
        str | None, typer.Option(help="For a MoGU model: 'on', as it decodes, or 'off', its base. Default: on for MoGU models.")
    ] = None,
    openings: Annotated[Path | None, typer.Option(help='JSON file with lists "affirm" and "refuse" to add to the project\'s own.')] = None,
    comparison: Annotated[
        Path | None,
        typer.Option(help="Output folder of a `mogu compare` on the same prompts, to correlate tendency with attack success and score."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="The column of a list that holds the instruction.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many instructions the table shows at each end.")] = 10,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Number of prompts in one forward pass; the next pass has each of them once for every opening.")
    ] = 8,
    dial: Dial = None,
    base_model: BaseModel = None,
    dtype: Dtype = "auto",
    quantization: Quantization = "auto",
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print tendency.json.")] = False,
) -> None:
    """Rank instructions by tendency: mean log-probability of openings that comply minus that of openings that refuse.

    Nothing is generated. Numbers are in nats per token; positive leans to affirm. Measurements are stored as they come: after Ctrl-C or a
    crash the same command resumes, and an instruction that was measured with the same model and settings is not measured again.

    Examples:

    mogu tendency safer-qwen data/pairs.dev.jsonl --out tendency

    mogu tendency safer-qwen data/pairs.dev.jsonl --routing off --out tendency-base
    """
    from mogu.analysis.answer_openings import AnswerOpenings, read_openings
    from mogu.analysis.tendency_ranking import check_folder, rank_instructions, write_ranking
    from mogu.files.json_files import write_json
    from mogu.files.outputs import one_process_at
    from mogu.progress import progress_bars, quiet_transformers

    check_folder(out)
    banks = read_openings(openings) if openings is not None else AnswerOpenings()
    instructions = _instructions(file, column)
    compared = _compared(comparison, instructions) if comparison is not None else None
    console = Console(stderr=True, highlight=False)
    with stoppable(console, "The same command resumes from the last finished batch."), quiet_transformers():
        subject = _load(path, base_model, dtype, quantization, chat_template, trust_remote_code)
        model, mode = _routed(subject, routing, dial)
        settings: dict[str, Any] = {"model": path, "file": file, "routing": mode}
        if mode == "on":
            config = model.mogu_config
            settings |= {"dial": config.dial, "routed_tokens": config.routed_tokens, "handoff": config.handoff}
        with one_process_at(out), progress_bars() as bars:
            task = bars.add_task("measuring", total=len(instructions), note="")
            ranking = rank_instructions(
                model,
                subject.tokenizer,
                instructions,
                banks,
                out,
                system_prompt=subject.system_prompt,
                settings=settings,
                batch_size=batch_size,
                advance=lambda done: bars.advance(task, done),
            )
            plotted = write_ranking(ranking, out)
    tendencies = [(row.instruction.id, row.instruction.label, row.tendency.value) for row in ranking.rows]
    correlations = compared.correlations(tendencies) if compared is not None else []
    if compared is not None:
        write_json(out / CORRELATION_FILE, [correlation.as_json() for correlation in correlations])
    if as_json:
        echo(json.dumps(ranking.as_json(), ensure_ascii=False))
        return
    _show(ranking, top)
    if correlations:
        _show_correlations(correlations)
    console.print(
        f"Written to {escape(str(out))}." + ("" if plotted else ' The plot needs matplotlib: pip install "mogu[eval]".'), soft_wrap=True
    )


def _instructions(file: str, column: str | None) -> list[LabeledInstruction]:
    from mogu.analysis.labeled_instructions import LabeledInstruction, read_labeled_instructions

    if file == LAB:
        from mogu.lab import prompts

        return [LabeledInstruction.plain(prompt.id, prompt.category, prompt.instruction) for prompt in prompts("test")]
    return read_labeled_instructions(Path(file).expanduser(), column)


def _compared(folder: Path, instructions: list[LabeledInstruction]) -> Compared:
    from mogu.evaluation.correlation import read_compared

    return read_compared(folder, [instruction.id for instruction in instructions])


def _load(
    path: str, base_model: str | None, dtype: str, quantization: str, chat_template: Path | None, trust_remote_code: bool
) -> TargetModel:
    import torch

    from mogu.cli._options import dtype_option
    from mogu.defenses import TargetModel
    from mogu.lab import build_base

    return TargetModel.load(
        build_base() if path == LAB else path,
        base_model=base_model,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
        dtype=dtype_option(dtype) or "auto",
        quantization=quantization,
        device_map={"": "cuda" if torch.cuda.is_available() else "cpu"},
    )


def _routed(subject: TargetModel, routing: str | None, dial: float | None) -> tuple[Any, str]:
    """Return the model to measure, in its mode, and the mode's name."""
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


def _show(ranking: TendencyRanking, top: int) -> None:
    console = Console(highlight=False)
    labels = Table("label", "instructions", "mean tendency", "median", "leaning to affirm")
    for label, summary in ranking.as_json()["labels"].items():
        means = (f"{summary['mean']:+.3f}", f"{summary['median']:+.3f}")
        labels.add_row(escape(label), f"{summary['n']}", *means, f"{summary['affirming']:.1%}")
    fixed = [Column(name, no_wrap=True) for name in ("rank", "tendency", "affirm", "refuse", "label")]
    table = Table(*fixed, Column("instruction", no_wrap=True, overflow="ellipsis", ratio=1), expand=True)
    ranks = range(1, len(ranking.rows) + 1)
    shown = [rank for rank in ranks if rank <= top or rank > len(ranks) - top]
    for previous, rank in zip([0, *shown], shown, strict=False):
        if rank > previous + 1:
            table.add_row(*["…"] * 6)
        row = ranking.rows[rank - 1]
        tendency = row.tendency
        numbers = (f"{tendency.value:+.3f}", f"{tendency.affirm_mean:.3f}", f"{tendency.refuse_mean:.3f}")
        table.add_row(str(rank), *numbers, escape(row.instruction.label), escape(_short(row.instruction.instruction)))
    console.print(labels)
    console.print(table)


def _short(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(text.split()))[:_SHOWN]


def _show_correlations(correlations: list[Correlation]) -> None:
    table = Table("correlated with", "prompts", "n", "Spearman's ρ", "95 % interval")
    for correlation in correlations:
        defense = "no defense" if correlation.defense == "none" else "MoGU"
        what = "MoGU's score" if correlation.measure == "score" else f"attack success, {defense}"
        estimate = correlation.estimate
        known = not math.isnan(estimate.value)
        numbers = (
            (f"{estimate.value:+.2f}", f"{estimate.low:+.2f} to {estimate.high:+.2f}") if known else ("none: all values are equal", "")
        )
        table.add_row(what, escape(correlation.category), str(estimate.n), *numbers)
    Console(highlight=False).print(table)
