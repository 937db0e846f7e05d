"""`mogu data`: check a record file, and build one from plain instructions.

Knows the command line; the work is done in :mod:`mogu.data`.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mogu.cli._options import ChatTemplate
from mogu.data import (
    Inspection,
    Instruction,
    ModelAnswers,
    Record,
    Split,
    build_pairs,
    check_shares,
    distinct,
    inspect_records,
    read_instructions,
    split_records,
    write_record_files,
)
from mogu.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Check training records, and build them from plain instructions.")

_SHOWN_PROBLEMS = 50


class RefusalSource(StrEnum):
    """Where the refusals of malicious instructions come from."""

    BANK = "bank"
    MODEL = "model"


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="A JSONL file, one record a line.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, with every problem.")] = False,
) -> None:
    """List every bad line of a record file, with the field and the reason.

    A good line looks like this:

    {"id": "benign-1", "label": "benign", "instruction": "Name a river.", "affirm": "The Elbe.", "reject": "I can't help with rivers."}

    The exit code is 0 if every record is good and both labels occur, else 2.

    Example: mogu data validate pairs.jsonl
    """
    inspection = inspect_records(file)
    if as_json:
        typer.echo(json.dumps(_as_json(file, inspection), ensure_ascii=False))
    else:
        _print_inspection(file, inspection)
    if inspection.problems:
        raise typer.Exit(2)


@app.command()
def build(
    benign: Annotated[Path, typer.Option(help="Instructions to answer: .txt (one a line), .csv or .jsonl.")],
    malicious: Annotated[Path, typer.Option(help="Instructions to refuse, in the same formats.")],
    out: Annotated[
        Path, typer.Option(help="File for the training records, NAME.jsonl; NAME.dev.jsonl and NAME.test.jsonl are written next to it.")
    ],
    benign_column: Annotated[str | None, typer.Option(help="The column of the benign instructions, if its name is unusual.")] = None,
    malicious_column: Annotated[str | None, typer.Option(help="The column of the malicious instructions, if its name is unusual.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A base model (folder or hub id) that answers benign instructions without an answer.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model. Read it first.")
    ] = False,
    chat_template: ChatTemplate = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer of the model, in tokens; short answers train just as well.")
    ] = 64,
    refusals: Annotated[
        RefusalSource, typer.Option(help="Refusals of malicious instructions: written ones, or the model's own where it refuses.")
    ] = RefusalSource.BANK,
    augment: Annotated[float, typer.Option(help="Share of each label's instructions to put into a wrapper, 0 to 1.")] = 0.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most this many instructions of each label, drawn at random.")] = None,
    dev: Annotated[float, typer.Option(help="Share of the instructions for the dev split, which chooses checkpoints.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the instructions for the test split, which is for the final measurement.")] = 0.1,
    seed: Annotated[int, typer.Option(help="The same seed and files give the same records.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output files.")] = False,
) -> None:
    """Build training records from a file of benign and a file of malicious instructions.

    The answer to a benign instruction comes from the file's column 'affirm', 'output', 'answer', 'response' or 'completion', or else from
    the base model. The answer to a malicious instruction is only an opening ("Sure, here is …"), never content. Refusals come from a bank
    of written ones, and name what was asked for.

    Example: mogu data build --benign questions.jsonl --malicious advbench.csv --augment 0.5 --out pairs.jsonl
    """
    outputs = _outputs(out, force=force)
    check_shares(dev, test)
    if model is None and refusals is RefusalSource.MODEL:
        raise ConfigError(
            "The base model's own refusals were asked for without a base model", expected="a base model", action="add --model BASE"
        )
    in_file = {"benign": read_instructions(benign, benign_column), "malicious": read_instructions(malicious, malicious_column)}
    chosen = {label: _draw(distinct(instructions), limit, seed) for label, instructions in in_file.items()}
    records = build_pairs(
        chosen["benign"],
        chosen["malicious"],
        answer=_load(model, chat_template, trust_remote_code, max_new_tokens) if model is not None else None,
        own_refusals=refusals is RefusalSource.MODEL,
        augment=augment,
        seed=seed,
    )
    splits = split_records(records, dev=dev, test=test, seed=seed)
    filled = {split: members for split, members in splits.items() if members}
    write_record_files({outputs[split]: members for split, members in filled.items()})
    for split in outputs.keys() - filled.keys():
        outputs[split].unlink(missing_ok=True)  # left by an earlier run; its instructions may be in another split now
    console = Console()
    _print_splits(console, filled, outputs)
    for label, instructions in in_file.items():
        _print_left_out(console, label, instructions, chosen[label], records)


def _as_json(file: Path, inspection: Inspection) -> dict[str, object]:
    return {
        "file": str(file),
        "valid": not inspection.problems,
        "records": len(inspection.records),
        "labels": dict(Counter(record.label for record in inspection.records)),
        "problems": [{"line": problem.line, "field": problem.field, "reason": problem.reason} for problem in inspection.problems],
    }


def _print_inspection(file: Path, inspection: Inspection) -> None:
    console = Console()
    labels = Counter(record.label for record in inspection.records)
    if inspection.problems:
        table = Table("line", "field", "reason")
        for problem in inspection.problems[:_SHOWN_PROBLEMS]:
            table.add_row("" if problem.line is None else str(problem.line), escape(problem.field or ""), escape(problem.reason))
        console.print(table)
        if (more := len(inspection.problems) - _SHOWN_PROBLEMS) > 0:
            console.print(f"… and {more} more; --json lists them all")
    counts = f"{len(inspection.records)} good records ({labels['benign']} benign, {labels['malicious']} malicious)"
    console.print(f"{escape(str(file))}: {counts}, {len(inspection.problems)} problems", highlight=False, soft_wrap=True)


def _outputs(out: Path, *, force: bool) -> dict[Split, Path]:
    if out.suffix != ".jsonl" or not out.stem:
        raise ConfigError(f"The output {out} is not a .jsonl file", expected="a path that ends in .jsonl", action="give --out NAME.jsonl")
    outputs: dict[Split, Path] = {"train": out, "dev": out.with_suffix(".dev.jsonl"), "test": out.with_suffix(".test.jsonl")}
    for path in outputs.values():
        if path.is_dir():
            raise ConfigError(f"{path} is a folder", expected="a path for a file", action="give another path")
        if path.exists() and not force:
            raise ConfigError(
                f"{path} exists already",
                expected="paths at which nothing would be lost",
                action="give another --out, or --force to overwrite",
            )
    return outputs


def _draw(instructions: list[Instruction], limit: int | None, seed: int) -> list[Instruction]:
    if limit is None or limit >= len(instructions):
        return instructions
    indices = random.Random(seed).sample(range(len(instructions)), limit)
    return [instructions[index] for index in sorted(indices)]


def _load(model: str, chat_template: Path | None, trust_remote_code: bool, max_new_tokens: int) -> ModelAnswers:
    import torch

    from mogu.hub import load_base, load_tokenizer

    tokenizer = load_tokenizer(model, chat_template=chat_template, trust_remote_code=trust_remote_code)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = load_base(model, trust_remote_code=trust_remote_code, dtype="auto", device_map={"": device})
    return ModelAnswers(base, tokenizer, max_new_tokens=max_new_tokens)


def _print_splits(console: Console, splits: dict[Split, list[Record]], outputs: dict[Split, Path]) -> None:
    table = Table("split", "benign", "malicious", "in a wrapper", "file")
    for split, records in splits.items():
        labels = Counter(record.label for record in records)
        wrapped = sum(record.wrapper is not None for record in records)
        table.add_row(split, str(labels["benign"]), str(labels["malicious"]), str(wrapped), escape(str(outputs[split])))
    console.print(table)


def _print_left_out(
    console: Console, label: str, in_file: Sequence[Instruction], chosen: Sequence[Instruction], records: Sequence[Record]
) -> None:
    duplicates = len(in_file) - len(distinct(in_file))
    refused = len(chosen) - sum(record.label == label for record in records)
    if duplicates:
        console.print(f"{label}: {duplicates} of {len(in_file)} instructions are duplicates and were used once")
    if refused:
        console.print(f"{label}: {refused} of {len(chosen)} instructions were left out because the model refuses them or says nothing")
