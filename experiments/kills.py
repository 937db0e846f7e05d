"""Kill commands with SIGKILL, run them again, and hold what they leave against an undisturbed run, bit for bit.

    python -m experiments.kills --kills 20 --out kills.json

Half of the kills come at a random moment, half just before a random file-system call within the command's own folders: writing is a small
part of the time and most of the danger. Then the command runs again, with ``--resume`` where it has that. Everything is small: the lab's
base model of a million parameters, two dozen records. Processes are forked from one that has imported everything.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.kills import die_at

LIMIT = 300
THINGS = ["kettle", "garden", "window", "bicycle", "ladder", "teapot", "carpet", "lantern", "bucket", "basket", "mirror", "pillow"]
RUN = {"max_length": 128, "micro_batch_size": 2, "save_steps": 2}
STAGE = {"epochs": 2, "batch_size": 3, "learning_rate": 1e-3}


def prepare(folder: Path) -> None:
    """Make what the commands start from: records, conversations, instructions, a hardened model, a GGUF file."""
    from mogu.lab import build_base
    from tests.gguf_files import write_gguf
    from tests.lab_models import save_random_model

    folder.mkdir(parents=True)
    rows = []
    for thing in THINGS:
        reject = f"I can't help with the {thing}."
        for label, instruction, affirm in (
            ("benign", f"How do I clean the {thing}?", f"Wash the {thing} and dry it."),
            ("malicious", f"How do I take their {thing}?", f"Sure, here is how to take the {thing}"),
        ):
            rows.append({"id": f"{label}-{thing}", "label": label, "instruction": instruction, "affirm": affirm, "reject": reject})
    chats = [
        {"messages": [{"role": "user", "content": f"Where is the {one}?"}, {"role": "assistant", "content": f"By the {other}."}]}
        for one, other in itertools.pairwise(THINGS)
    ]
    for name, lines in {"train": rows[:16], "dev": rows[16:], "chats": chats}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for label in ("benign", "malicious"):
        (folder / f"{label}.txt").write_text("".join(f"{row['instruction']}\n" for row in rows if row["label"] == label))
    save_random_model(folder / "model", build_base(progress=False), strength=0.1)
    write_gguf(folder / "tiny.gguf")


def train(data: Path, out: Path, *, again: bool) -> None:
    from mogu.lab import build_base
    from mogu.training import harden, recipe_from

    tree = {
        "method": "v1",
        "model": {"base": str(build_base(progress=False))},
        "data": {"train": str(data / "train.jsonl"), "dev": str(data / "dev.jsonl")},
        "glad": STAGE,
        "unwill": STAGE,
        "router": STAGE | {"batch_size": 4},
        "choice": {"checkpoints": [0.5, 1.0], "weight_penalties": [2.0], "max_new_tokens": 3},
        "run": RUN | {"output": str(out / "model")},
    }
    harden(recipe_from(tree, source="experiment"), resume=again)


def finetune(data: Path, out: Path, *, again: bool) -> None:
    from mogu.finetuning import finetune as tune
    from mogu.finetuning import finetune_recipe_from
    from mogu.lab import build_base

    tree = {
        "model": {"base": str(build_base(progress=False))},
        "data": {"train": str(data / "chats.jsonl"), "dev": str(data / "chats.jsonl")},
        "tune": STAGE | {"rank": 4, "lora_alpha": 8, "dropout": 0.1},
        "safety": {
            "method": "data-mix",
            "shares": [0.2, 0.5],
            "pairs": str(data / "train.jsonl"),
            "pairs_dev": str(data / "dev.jsonl"),
            "max_new_tokens": 3,
        },
        "run": RUN | {"output": str(out / "model")},
    }
    tune(finetune_recipe_from(tree, source="experiment"), resume=again)


def build(data: Path, out: Path, *, again: bool) -> None:
    from typer.testing import CliRunner

    from mogu.cli import app
    from mogu.lab import build_base

    arguments = ["--benign", str(data / "benign.txt"), "--malicious", str(data / "malicious.txt"), "--out", str(out / "pairs.jsonl")]
    arguments += ["--model", str(build_base(progress=False)), "--max-new-tokens", "8", "--dev", "0.25", "--test", "0.25"]
    result = CliRunner().invoke(app, ["data", "build", *arguments, *(["--force"] if again else [])])
    if result.exit_code:
        raise RuntimeError(result.output) from result.exception


def _comparison(data: Path, out: Path) -> Any:
    import mogu.lab  # noqa: F401  registers the prompts called lab
    from mogu.evaluation.compare import Comparison

    return Comparison(
        models=(str(data / "model"),),
        out=out / "report",
        data=("lab",),
        defenses=("none", "self_reminder", "mogu"),
        limit=2,
        shifts=(1.0,),
        max_new_tokens=4,
        cost_prompts=1,
        cost_rounds=1,
    )


def compare(data: Path, out: Path, *, again: bool) -> None:
    from mogu.evaluation.compare import compare as measure

    measure(_comparison(data, out))


def attack(data: Path, out: Path, *, again: bool) -> None:
    from mogu.attacks import AttackSettings, attack_models

    attacks = ("plain", "wrappers", "gcg", "random_search")
    attack_models(AttackSettings(_comparison(data, out), attacks=attacks, queries=2, flops=2e9))


def cache(data: Path, out: Path, *, again: bool) -> None:
    os.environ["MOGU_CACHE"] = str(out / "cache")
    from mogu.hub.dequantized import dequantized

    dequantized(data / "tiny.gguf")


COMMANDS: Mapping[str, tuple[Callable[..., None], str, tuple[str, ...]]] = {
    "train": (train, "`mogu train --resume`", ("model/**/*.safetensors", "model/loss_history.jsonl", "model/mogu_config.json")),
    "finetune": (finetune, "`mogu finetune --resume`", ("model/**/*.safetensors", "model/loss_history.jsonl")),
    "build": (build, "`mogu data build --force`", ("*.jsonl",)),
    "compare": (compare, "`mogu compare`", ("report/cells/**/*.json", "report/results.json")),
    "attack": (attack, "`mogu attack`", ("report/cells/**/*.json", "report/attacks.json")),
    "cache": (cache, "model cache (GGUF)", ("cache/models/*/*",)),
}
"""What is run, its name in the table, and the files that have to be the same."""

_TIMED = ("seconds", "added_latency", "passes_per_second")


def content(out: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """Digests of what a run has made, by file; of reports without what the clock and the path say."""
    files = [file for pattern in patterns for file in sorted(out.glob(pattern)) if file.is_file()]
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(out).parts)]
    return {str(file.relative_to(out)): hashlib.sha256(_lasting(file)).hexdigest() for file in files}


def _lasting(file: Path) -> bytes:
    if "report" not in file.parts or file.suffix != ".json":
        return file.read_bytes()
    record = json.loads(file.read_text())
    numbers = [row for row in record.get("numbers", []) if row.get("measure") not in _TIMED]
    kept = {name: value for name, value in record.items() if name in ("replies", "behaviors", "fingerprint", "data", "roc")}
    return json.dumps([kept, numbers], sort_keys=True).encode()


def _is_whole(file: Path, expected: str | None, digest: str) -> bool:
    """Whether a file is what an undisturbed run ends with, or a cell that says itself how far it is."""
    from mogu.files.json_files import read_sealed

    return digest == expected or ("cells" in file.parts and read_sealed(file) is not None)


@dataclass
class Result:
    """What became of one command: how often it was killed, and what was found afterward."""

    command: str
    seconds: float
    calls: int
    kills: int = 0
    same: int = 0
    whole: int = 0
    clean: int = 0
    moments: list[str] = field(default_factory=list)


def _run(command: str, data: Path, out: Path, again: bool, call: int) -> None:
    """Run in a process of its own."""
    import torch

    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    os.environ["INSPECT_LOG_DIR"] = str(out.parent / "logs")
    with (out.parent / "log").open("a") as log:  # bars and warnings
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    started, calls = time.monotonic(), die_at(call, str(out))
    COMMANDS[command][0](data, out, again=again)
    _spent(out).write_text(json.dumps([time.monotonic() - started, calls()]))


def _spent(out: Path) -> Path:
    """Where a run that ended says how long it took, and how many calls it made."""
    return out.with_name(f"{out.name}.json")


def start(command: str, data: Path, out: Path, *, again: bool = False, call: int = 10**9) -> Any:
    """Start a command; it is killed just before its ``call``-th file-system call within ``out``."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["mogu.training", "mogu.finetuning", "mogu.cli", "mogu.evaluation.compare", "mogu.attacks", "mogu.lab"])
    process = server.Process(target=_run, args=(command, data, out, again, call))
    process.start()
    return process


def finish(process: Any) -> int:
    process.join(LIMIT)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError("a run took more than five minutes")
    return int(process.exitcode)


def survive(command: str, data: Path, work: Path, kills: int, seed: int) -> Result:
    """Kill a command at random moments, and compare what it leaves once it has run again."""
    patterns = COMMANDS[command][2]
    drawn = random.Random(f"{command} {seed}")
    work.mkdir(exist_ok=True)
    if finish(start(command, data, work / "whole")):
        raise RuntimeError(f"{command} does not run undisturbed: {(work / 'log').read_text()[-2000:]}")
    seconds, calls = json.loads(_spent(work / "whole").read_text())
    expected, result = content(work / "whole", patterns), Result(command, round(seconds, 1), calls)
    while result.kills < kills:
        out = work / f"killed-{result.kills}"
        shutil.rmtree(out, ignore_errors=True)
        if result.kills % 2:
            call = drawn.randint(1, calls)
            process, described = start(command, data, out, call=call), f"call {call} of {calls}"
        else:
            moment = drawn.uniform(0, seconds)
            process, described = start(command, data, out), f"after {moment:.1f} s"
            process.join(moment)
            process.kill()
        if finish(process) != -signal.SIGKILL:
            continue  # it was faster than the kill
        result.kills += 1
        result.moments.append(described)
        result.whole += all(_is_whole(out / name, expected.get(name), digest) for name, digest in content(out, patterns).items())
        code = finish(start(command, data, out, again=True))
        result.same += code == 0 and content(out, patterns) == expected
        result.clean += not [path for path in out.rglob("*") if path.name.endswith(".incoming")]
        shutil.rmtree(out, ignore_errors=True)
    return result


def table(results: list[Result]) -> str:
    heads = (
        "killed",
        "seconds of a run",
        "file-system calls",
        "kills",
        "nothing half-written",
        "same bits in the end",
        "nothing left over",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for one in results:
        name = COMMANDS[one.command][1]
        lines.append(f"| {name} | {one.seconds} | {one.calls} | {one.kills} | {one.whole} | {one.same} | {one.clean} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--commands", default=",".join(COMMANDS), help="which, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for all moments")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder) / "data")
        for command in arguments.commands.split(","):
            results.append(survive(command, Path(folder) / "data", Path(folder) / command, arguments.kills, arguments.seed))
            print(table(results[-1:]).splitlines()[-1], flush=True)
            if arguments.out is not None:
                arguments.out.write_text(json.dumps([asdict(one) for one in results], indent=1) + "\n")
    print("\n" + table(results))


if __name__ == "__main__":
    main()
