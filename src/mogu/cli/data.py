"""`mogu data`: check record files, and build them from plain instructions.

Knows the command line; the work is done in :mod:`mogu.data`.
"""

from __future__ import annotations

import json
import random
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mogu.cli._options import ChatTemplate
from mogu.cli._overlap import overlap
from mogu.cli._terminal import echo
from mogu.data import (
    KINDS,
    REFUSALS,
    Inspection,
    Instruction,
    Kind,
    ModelAnswers,
    Record,
    Split,
    build_pairs,
    check_shares,
    compared_text,
    distinct,
    inspect_records,
    near_duplicate_groups,
    read_instructions,
    split_records,
    write_record_files,
)
from mogu.data.near_duplicates import check_rensa
from mogu.data.starter import starter_files, write_starter
from mogu.errors import ConfigError
from mogu.files.disk_list import pick
from mogu.files.outputs import one_process_at

app = typer.Typer(no_args_is_help=True, help="Check training records, and build them from plain instructions.")

_SHOWN_PROBLEMS = 50


class RefusalSource(StrEnum):
    """Where refusals come from, if not from a file."""

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
        echo(json.dumps(_as_json(file, inspection), ensure_ascii=False))
    else:
        _print_inspection(file, inspection)
    if inspection.problems:
        raise typer.Exit(2)


app.command()(overlap)


@app.command()
def build(
    benign: Annotated[Path, typer.Option(help="Instructions to answer: .txt (one a line), .csv or .jsonl.")],
    malicious: Annotated[Path, typer.Option(help="Instructions to refuse, in the same formats.")],
    out: Annotated[
        Path, typer.Option(help="File for the training records, NAME.jsonl; NAME.dev.jsonl and NAME.test.jsonl are written next to it.")
    ],
    borderline: Annotated[
        Path | None, typer.Option(help="Instructions to answer that look malicious and are harmless, in the same formats.")
    ] = None,
    benign_column: Annotated[str | None, typer.Option(help="The column of the benign instructions, if its name is unusual.")] = None,
    malicious_column: Annotated[str | None, typer.Option(help="The column of the malicious instructions, if its name is unusual.")] = None,
    borderline_column: Annotated[
        str | None, typer.Option(help="The column of the borderline instructions, if its name is unusual.")
    ] = None,
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
        str,
        typer.Option(
            help="Where refusals come from: 'bank', which are written ones; 'model', the model's own where it refuses; "
            "or a file of yours, one a line, {subject} in the place of what was asked for."
        ),
    ] = RefusalSource.BANK.value,
    augment: Annotated[float, typer.Option(help="Share of each kind's instructions to put into a wrapper, 0 to 1.")] = 0.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most this many instructions of each kind, drawn at random.")] = None,
    dev: Annotated[float, typer.Option(help="Share of the instructions for the dev split, which chooses checkpoints.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the instructions for the test split, which is for the final measurement.")] = 0.1,
    seed: Annotated[int, typer.Option(help="The same seed and files give the same records.")] = 0,
    together: Annotated[
        bool, typer.Option("--near-duplicates-together", help="Keep instructions that are nearly alike in one split; needs mogu[dedup].")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output files.")] = False,
) -> None:
    """Build training records from a file of benign and a file of malicious instructions, and one of harmless look-alikes if there is one.

    The answer to a benign instruction comes from the file's column 'affirm', 'output', 'answer', 'response' or 'completion', or else from
    the base model; so does that to a borderline one, which is benign and looks malicious ("How do I kill a process?"). The answer to a
    malicious instruction is only an opening ("Sure, here is …"), never content. Refusals come from a bank of written ones, which name what
    was asked for, or from a file of yours.

    Examples:

    mogu data build --benign questions.jsonl --malicious advbench.csv --augment 0.5 --out pairs.jsonl

    mogu data build --benign questions.jsonl --malicious advbench.csv --borderline lookalikes.txt --model BASE --out pairs.jsonl
    """
    outputs = _outputs(out, force=force)
    check_shares(dev, test)
    if together:
        check_rensa()
    if model is None and refusals == RefusalSource.MODEL:
        raise ConfigError(
            "The base model's own refusals were asked for without a base model", expected="a base model", action="add --model BASE"
        )
    written = REFUSALS if refusals in set(RefusalSource) else [line.text for line in read_instructions(Path(refusals).expanduser())]
    in_file: dict[Kind, Sequence[Instruction]] = {
        "benign": read_instructions(benign, benign_column),
        "borderline": read_instructions(borderline, borderline_column) if borderline is not None else [],
        "malicious": read_instructions(malicious, malicious_column),
    }
    chosen = {kind: distinct(instructions) for kind, instructions in in_file.items()}
    different = {kind: len(instructions) for kind, instructions in chosen.items()}
    chosen = {kind: _draw(instructions, limit, seed) for kind, instructions in chosen.items()}
    records = build_pairs(
        chosen["benign"],
        chosen["malicious"],
        borderline=chosen["borderline"],
        answer=_load(model, chat_template, trust_remote_code, max_new_tokens) if model is not None else None,
        refusals=written,
        own_refusals=refusals == RefusalSource.MODEL,
        augment=augment,
        seed=seed,
    )
    alike = near_duplicate_groups(map(compared_text, records)) if together else None
    splits = split_records(records, dev=dev, test=test, seed=seed, together=alike)
    filled = {split: members for split, members in splits.items() if members}
    # What an earlier run left goes: its instructions may be in another split now.
    stale = [outputs[split] for split in outputs.keys() - filled.keys()]
    with one_process_at(out, out.with_name(f".{out.name}.lock")):
        _refuse_to_overwrite(outputs.values(), force=force)
        write_record_files({outputs[split]: members for split, members in filled.items()}, stale=stale)
    console = Console()
    built = _print_splits(console, filled, outputs)
    for kind, instructions in in_file.items():
        if duplicates := len(instructions) - different[kind]:
            console.print(f"{kind}: {duplicates} of {len(instructions)} instructions are duplicates and were used once")
        if refused := len(chosen[kind]) - built[kind]:
            console.print(
                f"{kind}: {refused} of {len(chosen[kind])} instructions were left out because their answers refuse or say nothing"
            )


@app.command()
def starter(
    out: Annotated[Path, typer.Option(help="Folder for the lists: train, dev and test, each with benign, borderline and malicious.jsonl.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite files of these names.")] = False,
) -> None:
    """Write the starter set: instructions to harden a model with before you have data of your own.

    Malicious instructions, borderline ones that look like them, and benign ones, with category and topic. A topic is in one split only.
    There are no answers: `mogu data build` makes those, or `mogu train` where a recipe says data.train = "starter".

    Example: mogu data starter --out starter-set
    """
    _refuse_to_overwrite(starter_files(out).values(), force=force)
    written = write_starter(out)
    table = Table("file", "instructions", "topics")
    for file, instructions in written.items():
        table.add_row(escape(str(file)), str(len(instructions)), str(len({instruction.topic for instruction in instructions})))
    console = Console()
    console.print(table)
    files = {place: shlex.quote(str(file)) for place, file in starter_files(out).items()}
    lists = " ".join(f"--{kind} {files['train', kind]}" for kind in KINDS)
    prompts = ",".join(f"{kind}={files['test', kind]}" for kind in KINDS)
    for line in (
        f"Next:      mogu data build {lists} --model BASE --test 0 --out pairs.jsonl",
        "Or:        mogu train RECIPE --set data.train=starter --set data.dev=starter",
        f"Afterward: mogu compare MODEL --data {prompts}",
    ):
        console.print(escape(line), highlight=False, soft_wrap=True)


def _as_json(file: Path, inspection: Inspection) -> dict[str, object]:
    return {
        "file": str(file),
        "valid": not inspection.problems,
        "records": len(inspection.records),
        "labels": dict(Counter(record.label for record in inspection.records)),
        "borderline": sum(record.borderline for record in inspection.records),
        "problems": [{"line": problem.line, "field": problem.field, "reason": problem.reason} for problem in inspection.problems],
    }


def _print_inspection(file: Path, inspection: Inspection) -> None:
    console = Console()
    kinds = Counter(record.kind for record in inspection.records)
    if inspection.problems:
        table = Table("line", "field", "reason")
        for problem in inspection.problems[:_SHOWN_PROBLEMS]:
            table.add_row("" if problem.line is None else str(problem.line), escape(problem.field or ""), escape(problem.reason))
        console.print(table)
        if (more := len(inspection.problems) - _SHOWN_PROBLEMS) > 0:
            console.print(f"… and {more} more; --json lists them all")
    counted = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kind != "borderline" or kinds[kind])
    counts = f"{len(inspection.records)} good records ({counted})"
    console.print(f"{escape(str(file))}: {counts}, {len(inspection.problems)} problems", highlight=False, soft_wrap=True)


def _outputs(out: Path, *, force: bool) -> dict[Split, Path]:
    if out.suffix != ".jsonl" or not out.stem:
        raise ConfigError(f"The output {out} is not a .jsonl file", expected="a path that ends in .jsonl", action="give --out NAME.jsonl")
    outputs: dict[Split, Path] = {"train": out, "dev": out.with_suffix(".dev.jsonl"), "test": out.with_suffix(".test.jsonl")}
    for path in outputs.values():
        if path.is_dir():
            raise ConfigError(f"{path} is a folder", expected="a path for a file", action="give another path")
    _refuse_to_overwrite(outputs.values(), force=force)
    return outputs


def _refuse_to_overwrite(paths: Iterable[Path], *, force: bool) -> None:
    if not force and (there := [path for path in paths if path.exists()]):
        raise ConfigError(
            f"{there[0]} exists already",
            expected="paths at which nothing would be lost",
            action="give another --out, or --force to overwrite",
        )


def _draw(instructions: Sequence[Instruction], limit: int | None, seed: int) -> Sequence[Instruction]:
    if limit is None or limit >= len(instructions):
        return instructions
    indices = random.Random(seed).sample(range(len(instructions)), limit)
    return pick(instructions, sorted(indices))


def _load(model: str, chat_template: Path | None, trust_remote_code: bool, max_new_tokens: int) -> ModelAnswers:
    import torch

    from mogu.hub import load_base, load_tokenizer

    tokenizer = load_tokenizer(model, chat_template=chat_template, trust_remote_code=trust_remote_code)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = load_base(model, trust_remote_code=trust_remote_code, dtype="auto", device_map={"": device})
    return ModelAnswers(base, tokenizer, max_new_tokens=max_new_tokens)


def _print_splits(console: Console, splits: Mapping[Split, Sequence[Record]], outputs: Mapping[Split, Path]) -> Counter[Kind]:
    """Print what is in each split; return what is in all of them."""
    counts = {split: Counter((record.kind, record.wrapper is not None) for record in records) for split, records in splits.items()}
    kinds = {split: {kind: count[kind, False] + count[kind, True] for kind in KINDS} for split, count in counts.items()}
    built: Counter[Kind] = Counter()
    for of_split in kinds.values():
        built.update(of_split)
    shown = [kind for kind in KINDS if kind != "borderline" or built[kind]]
    table = Table("split", *shown, "in a wrapper", "file")
    for split, of_split in kinds.items():
        wrapped = sum(count for (_, in_wrapper), count in counts[split].items() if in_wrapper)
        table.add_row(split, *(str(of_split[kind]) for kind in shown), str(wrapped), escape(str(outputs[split])))
    console.print(table)
    return built
