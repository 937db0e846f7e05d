"""Measure how much memory more training data takes: what is resident at a million records, beside what is at a thousand.

Each stage runs in a process of its own, once with few records and once with many, and prints its peak of resident memory as the kernel
counts it. Records have some sixty words. A stage that encodes does what `mogu train` and `mogu finetune` do before their first step.

    python -m benchmarks.record_memory [--records N] [--base BASE] [--json FILE] [STAGE ...]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.memory import MEGABYTE, measured_apart, peak, reset_peak

FEW = 1000
MOST = 200 * MEGABYTE
"""How much more may be resident with many records than with :data:`FEW`."""


def _words(rng: random.Random, count: int) -> str:
    return " ".join(f"{rng.choice(_SYLLABLES)}{rng.choice(_SYLLABLES)}" for _ in range(count))


_SYLLABLES = [first + last for first in "bdfgklmnprstvz" for last in ("a", "e", "in", "o", "ur")]


def write_pairs(file: Path, count: int) -> None:
    """Write records of both labels in turn, no two alike."""
    _write(file, ({"label": ("benign", "malicious")[number % 2], **_pair(number)} for number in range(count)))


def write_instructions(folder: Path, count: int) -> tuple[Path, Path]:
    """Write two lists, of as many instructions together, the benign ones answered; one in ten stands there twice."""
    files = folder / "benign.jsonl", folder / "malicious.jsonl"
    for number, file in enumerate(files):
        pairs = (_pair(2 * (index - (index % 10 == 9)) + number) for index in range(count // 2))
        _write(file, ({"instruction": pair["instruction"], "output": pair["affirm"]} for pair in pairs))
    return files


def write_chats(file: Path, count: int) -> None:
    """Write conversations of one question and one answer."""
    roles = (("user", "instruction"), ("assistant", "affirm"))
    pairs = map(_pair, range(count))
    _write(file, ({"messages": [{"role": role, "content": pair[field]} for role, field in roles]} for pair in pairs))


def _pair(number: int) -> dict[str, str]:
    rng = random.Random(number)
    texts = {name: _words(rng, words) for name, words in (("instruction", 20), ("affirm", 25), ("reject", 15))}
    return {"id": f"record-{number:07d}", **texts}


def _write(file: Path, rows: Iterator[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def _read(folder: Path, count: int, base: str) -> Callable[[], Any]:
    from mogu.data import read_records

    write_pairs(folder / "pairs.jsonl", count)
    return lambda: sum(len(record.request) for record in read_records(folder / "pairs.jsonl"))


def _split(folder: Path, count: int, base: str) -> Callable[[], Any]:
    from mogu.data import read_records, split_records

    write_pairs(folder / "pairs.jsonl", count)
    return lambda: split_records(read_records(folder / "pairs.jsonl"))


def _alike(folder: Path, count: int, base: str) -> Callable[[], Any]:
    from mogu.data import compared_text, near_duplicate_groups, read_records, split_records

    write_pairs(folder / "pairs.jsonl", count)

    def split() -> None:
        records = read_records(folder / "pairs.jsonl")
        split_records(records, together=near_duplicate_groups(map(compared_text, records)))

    return split


def _build(folder: Path, count: int, base: str) -> Callable[[], Any]:
    from mogu.cli import main

    files = write_instructions(folder, count)
    lists = [argument for kind, file in zip(("benign", "malicious"), files, strict=True) for argument in (f"--{kind}", str(file))]

    def build() -> None:
        sys.argv = ["mogu", "data", "build", *lists, "--augment", "0.5", "--out", str(folder / "pairs.jsonl")]
        with suppress(SystemExit):
            main()
        assert (folder / "pairs.jsonl").exists()

    return build


def _train(folder: Path, count: int, base: str) -> Callable[[], Any]:
    from mogu.training.inputs import read_inputs
    from mogu.training.recipe import recipe_from
    from mogu.training.sampler import StepBatches

    write_pairs(folder / "pairs.jsonl", count)
    tree = {"method": "v1", "model": {"base": base}, "data": {"train": str(folder / "pairs.jsonl"), "dev_share": 0.001}}
    recipe = recipe_from(tree | {"run": {"output": str(folder / "out"), "max_length": 512}}, source="the benchmark")

    def encode() -> None:
        inputs = read_inputs(recipe)
        assert len(inputs.train_fingerprint) == 64
        examples = inputs.examples["router"]
        StepBatches([len(example) for example in examples], 8, 8, 0).of_epoch(0)

    return encode


def _finetune(folder: Path, count: int, base: str) -> Callable[[], Any]:
    from mogu.finetuning.inputs import read_tuning_inputs
    from mogu.finetuning.recipe import finetune_recipe_from

    write_chats(folder / "chats.jsonl", count)
    tree = {"model": {"base": base}, "data": {"train": str(folder / "chats.jsonl")}, "run": {"output": str(folder / "out")}}
    recipe = finetune_recipe_from(tree, source="the benchmark")
    return lambda: read_tuning_inputs(recipe).dev_fingerprint


STAGES: dict[str, Callable[[Path, int, str], Callable[[], Any]]] = {
    "read": _read,
    "split": _split,
    "alike": _alike,
    "build": _build,
    "train": _train,
    "finetune": _finetune,
}
"""Of each stage a function that writes its files and returns what is measured."""


def measure(names: Sequence[str], records: int, base: str) -> list[dict[str, Any]]:
    """Measure stages; each row has the stage, the peaks with few and with many records in bytes, and the seconds of the latter."""
    rows = []
    for name in names:
        few, many = (_in_own_process(name, count, base) for count in (FEW, records))
        more = many["peak"] - few["peak"]
        row = {"stage": name, "records": records, "few": few["peak"], "many": many["peak"], "more": more, "seconds": many["seconds"]}
        verdict = "within" if more <= MOST else "beyond"
        print(
            f"{name:10} {records:,} records: {many['peak'] / MEGABYTE:6.0f} MB, {more / MEGABYTE:6.0f} MB over {FEW:,} ({verdict} "
            f"{MOST / MEGABYTE:.0f} MB), {many['seconds']:.0f} s",
            flush=True,
        )
        rows.append(row)
    return rows


def _in_own_process(name: str, count: int, base: str) -> dict[str, Any]:
    arguments = ["--here", "--records", str(count), "--base", base, name]
    result: dict[str, Any] = measured_apart("benchmarks.record_memory", arguments)
    return result


def _measure_here(name: str, count: int, base: str) -> dict[str, Any]:
    with TemporaryDirectory() as scratch:
        run = STAGES[name](Path(scratch), count, base)
        device, started = torch.device("cpu"), time.monotonic()
        reset_peak(device)
        run()
        return {"seconds": time.monotonic() - started, "peak": peak(device)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", default=[], help=", ".join(STAGES))
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--base", default="smollm2", help="whose tokenizer encodes")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(_measure_here(arguments.stages[0], arguments.records, arguments.base)))
        return 0
    rows = measure(arguments.stages or list(STAGES), arguments.records, arguments.base)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return int(any(row["more"] > MOST for row in rows))


if __name__ == "__main__":
    sys.exit(main())
