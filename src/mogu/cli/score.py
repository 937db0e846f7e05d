"""`mogu score`: how malicious a hardened model finds the prompts of a file.

Knows the command line; the scoring is done by :meth:`mogu.MoguModel.score`.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mogu.cli._options import BaseModel, ChatTemplate, Dial, Dtype, ModelPath, Quantization, TrustRemoteCode
from mogu.cli._shared import load_model
from mogu.cli._terminal import echo

ENDINGS = (".csv", ".jsonl")


def score(
    path: ModelPath,
    file: Annotated[Path, typer.Argument(help="Records (.jsonl), or a list of instructions (.txt, .csv, .jsonl).")],
    out: Annotated[Path | None, typer.Option(help="Write a .csv or .jsonl file, in the order of the prompts, in place of lines.")] = None,
    column: Annotated[str | None, typer.Option(help="The column of a list that holds the instruction.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Count how many prompts of each label have a score above this.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts a pass.")] = 32,
    dial: Dial = None,
    base_model: BaseModel = None,
    dtype: Dtype = "auto",
    quantization: Quantization = "auto",
    trust_remote_code: TrustRemoteCode = False,
    chat_template: ChatTemplate = None,
) -> None:
    """Score every prompt of a file: 0 is benign to the model, 1 is malicious. Nothing is generated.

    Prints one JSON object a line (id, label, score, prompt), or writes them to a file; a summary by label goes to the error stream.

    Examples:

    mogu score smollm2-safer requests.txt

    mogu score safer-qwen data/pairs.dev.jsonl --out scores.csv --threshold 0.5
    """
    from mogu.analysis.labeled_instructions import read_labeled_instructions
    from mogu.data import offered, opened
    from mogu.errors import ConfigError
    from mogu.files.atomic import atomic_file

    if out is not None and out.suffix.lower() not in ENDINGS:
        raise ConfigError(f"--out is {str(out)!r}", expected=f"a file ending in {' or '.join(ENDINGS)}", action="name it so")
    instructions = read_labeled_instructions(file.expanduser(), column)
    model = load_model(
        path,
        base_model=base_model,
        dtype=dtype,
        quantization=quantization,
        trust_remote_code=trust_remote_code,
        chat_template=chat_template,
        dial=dial,
    )
    system = model.mogu_config.system_prompt
    scores = model.score([offered(opened(one.conversation, system), one.tools) for one in instructions], batch_size=batch_size)
    rows = [
        {"id": one.id, "label": one.label, "score": round(value, 6), "prompt": one.instruction}
        for one, value in zip(instructions, scores.tolist(), strict=True)
    ]
    if out is None:
        for row in rows:
            echo(json.dumps(row, ensure_ascii=False))
    else:
        with atomic_file(out) as scratch, scratch.open("w", encoding="utf-8", newline="") as written:
            if out.suffix.lower() == ".csv":
                table = csv.DictWriter(written, fieldnames=list(rows[0]))
                table.writeheader()
                table.writerows(rows)
            else:
                written.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    _summarize([(str(row["label"]), float(str(row["score"]))) for row in rows], threshold)


def _summarize(scored: list[tuple[str, float]], threshold: float | None) -> None:
    table = Table("label", "prompts", "mean score", *([f"above {threshold:g}"] if threshold is not None else []))
    for label, count in Counter(label for label, _ in scored).items():
        scores = [score for of, score in scored if of == label]
        above = [str(sum(score > threshold for score in scores))] if threshold is not None else []
        table.add_row(label, str(count), f"{sum(scores) / count:.3f}", *above)
    Console(stderr=True, highlight=False).print(table)
