"""`mogu data overlap`: what record files have in common, or nearly.

Knows the command line; the work is done in :mod:`mogu.data.near_duplicates`.
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mogu.cli._terminal import echo
from mogu.data import Record, compared_text, near_duplicates, read_records
from mogu.data.near_duplicates import THRESHOLD, WORDS, check_rensa
from mogu.errors import ConfigError

_SHOWN = 50
_SHOWN_CHARACTERS = 100


def overlap(
    files: Annotated[list[Path], typer.Argument(help="Record files, such as those of train, dev and test.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, with every pair.")] = False,
) -> None:
    """Find records of different files that are nearly alike: what is in training as well measures nothing.

    Two prompts are if at least 0.8 of their runs of five words are in both: the Jaccard index of word 5-grams. Upper case and punctuation
    do not count, nor do mogu's own wrappers around an instruction. Needs mogu[dedup].

    The exit code is 0 if there are none, else 2.

    Example: mogu data overlap pairs.jsonl pairs.dev.jsonl pairs.test.jsonl
    """
    if len(files) < 2:
        raise ConfigError(f"Only {files[0]} was named", expected="at least two record files", action="name the files of the other splits")
    check_rensa()
    records = [read_records(file) for file in files]
    ends = list(itertools.accumulate(map(len, records)))
    parts = array("H", itertools.chain.from_iterable(itertools.repeat(number, len(of_file)) for number, of_file in enumerate(records)))
    pairs = near_duplicates(map(compared_text, itertools.chain.from_iterable(records)), parts)

    def named(index: int) -> tuple[Path, Record]:
        part = parts[index]
        return files[part], records[part][index - ends[part]]  # counted from the end, as negative indices are

    rows = [(*named(pair.first), *named(pair.second), pair.jaccard) for pair in pairs]
    if as_json:
        listed = [
            {"first": {"file": str(file), "id": one.id}, "second": {"file": str(other_file), "id": other.id}, "jaccard": round(alike, 4)}
            for file, one, other_file, other, alike in rows
        ]
        echo(json.dumps({"files": list(map(str, files)), "threshold": THRESHOLD, "words": WORDS, "pairs": listed}, ensure_ascii=False))
    else:
        _print_overlap(rows, sum(map(len, records)))
    if rows:
        raise typer.Exit(2)


def _print_overlap(rows: Sequence[tuple[Path, Record, Path, Record, float]], records: int) -> None:
    console = Console()
    if rows:
        table = Table("records", "in", "alike", "prompts")
        for file, one, other_file, other, alike in rows[:_SHOWN]:
            for record, found_in, share in ((one, file, f"{alike:.2f}"), (other, other_file, "")):
                table.add_row(*map(escape, (record.id, str(found_in), share, repr(record.request)[:_SHOWN_CHARACTERS])))
        console.print(table)
        if (more := len(rows) - _SHOWN) > 0:
            console.print(f"… and {more} more; --json lists them all")
    console.print(f"{records} records, {len(rows)} pairs of near-duplicates in different files", highlight=False, soft_wrap=True)
