"""Runs of many inputs, and what came of them as JSON and as the table of the docs."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import torch
import transformers

from experiments.fuzz.readers import readers
from experiments.fuzz.seeds import write_seeds
from experiments.fuzz.watch import Outcome, Watch

_ENDS = ("error", "success", "foreign", "hang", "memory", "deed")


def main() -> None:
    """Try inputs, reader by reader in turn, and say how they ended."""
    parser = argparse.ArgumentParser(description="Hostile files for every reader.")
    parser.add_argument("--inputs", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one reader")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    found: dict[str, list[int]] = defaultdict(list)
    started = time.monotonic()
    largest = 0
    with tempfile.TemporaryDirectory() as scratch:
        chosen = {name: reader for name, reader in readers(write_seeds(Path(scratch, "seeds"))).items() if arguments.only in (None, name)}
        watch = Watch(Path(scratch, "one"))
        turns = [name for name, reader in chosen.items() for _ in range(reader.weight)]
        for number in range(arguments.inputs):
            name = turns[number % len(turns)]
            outcome: Outcome = watch.try_one(chosen[name], Random(f"{arguments.seed} {number}"))
            counts[name][outcome.end] += 1
            largest = max(largest, outcome.mebibytes)
            if outcome.what:
                found[f"{name}: {outcome.end}: {outcome.what}"].append(number)
    result = {
        "inputs": arguments.inputs,
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - started, 1),
        "most_mebibytes": largest,
        "readers": {name: dict(ends) for name, ends in counts.items()},
        "found": {what: numbers[:5] for what, numbers in sorted(found.items(), key=lambda entry: -len(entry[1]))},
    }
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"| reader | inputs | {' | '.join(_ENDS)} |\n|---|{'---|' * (len(_ENDS) + 1)}")
    for name, ends in counts.items():
        print(f"| {name} | {sum(ends.values()):,} | {' | '.join(f'{ends[end]:,}' for end in _ENDS)} |")
    print(f"\n{arguments.inputs:,} inputs in {result['seconds']:g} s; memory grew by {largest} MiB at most")
    for what, numbers in list(found.items())[:40]:
        print(f"{len(numbers)} × {what} (input {numbers[0]})")


main()
