"""Compare vLLM with a MoGU model, routed and gated, and plain vLLM on the same base: ``make bench-vllm``.

Both engines exist in one run, each in a process of its own, and take turns; the waiting one is idle.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.findings import Finding, save, show
from benchmarks.gated_serving import measure_gated_serving
from benchmarks.models import FULL, LlamaShape, make_base, make_routed
from benchmarks.vllm_engine import Engine, Load

FULL_LOAD = Load(64, 128, 128, 3)
QUICK_LOAD = Load(8, 32, 16, 2)
QUICK_SHAPE = LlamaShape("Llama, 0.4M parameters", 128, 256, 2, 4, 512)  # vLLM's attention on a CPU needs heads of at least 32
WAYS: dict[str, str | None] = {"plain vLLM": None, "continue": "continue", "recompute": "recompute"}


def measure(shape: LlamaShape, load: Load, folder: Path) -> tuple[list[Finding], dict[str, Any]]:
    """Measure all ways in turns whose order changes every round; ratios are medians of the rounds' ratios."""
    base, adapter = folder / "base", folder / "mogu"
    model = make_base(shape, torch.device("cpu"), torch.float32)
    model.save_pretrained(base)
    make_routed(model).save_pretrained(adapter)
    plain = Engine(base, load)
    routed = Engine(base, load, enable_lora=True, max_lora_rank=32, max_loras=1, lora_target_modules=["o_proj"])
    numbers = random.Random(0)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(load.rounds + 1):
        prompts = [[numbers.randrange(2, shape.vocabulary) for _ in range(load.prompt)] for _ in range(load.requests)]
        ways = list(WAYS.items())
        for way, handoff in ways[number % len(ways) :] + ways[: number % len(ways)]:
            asked = [{"handoff": handoff}] * load.requests if handoff else [None] * load.requests
            turn = (routed if handoff else plain).turn(prompts, load.new_tokens, adapter if handoff else None, asked)
            if number:  # the first round warms up
                seconds[way].append(turn.seconds)
    tokens = load.requests * load.new_tokens
    medians = {way: statistics.median(rounds) for way, rounds in seconds.items()}
    findings = []
    for way in ("continue", "recompute"):
        ratio = statistics.median(plain_seconds / taken for plain_seconds, taken in zip(seconds["plain vLLM"], seconds[way], strict=True))
        note = f"{tokens / medians[way]:.0f} tokens/s, plain vLLM {tokens / medians['plain vLLM']:.0f}"
        case = f"{load.requests} × {load.prompt} + {load.new_tokens}, {way}"
        findings.append(Finding("throughput", case, ratio, "×", at_least=0.95, note=note))
    mebibytes = [engine.resident() / 2**20 for engine in (routed, plain)]
    note = f"{mebibytes[0]:.0f} MiB, plain vLLM {mebibytes[1]:.0f} MiB"
    findings.append(Finding("resident memory of the engine", "after the rounds", mebibytes[0] / mebibytes[1], "×", at_most=1.02, note=note))
    return findings, {"seconds": seconds}


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description="Compare vLLM with a MoGU model and plain vLLM.")
    parser.add_argument("--quick", action="store_true", help="use a tiny model, to check that everything runs; the numbers mean nothing")
    parser.add_argument("--out", type=Path, default=Path("bench-results/serving"), help="folder for results.json and results.md")
    parser.add_argument("--only", choices=["routed", "gated"], help="measure this kind of model alone")
    parser.add_argument("--listen", action="store_true", help="have the gated model listen to its answers as well")
    for name, what in (
        ("requests", "requests at once"),
        ("prompt", "tokens of a prompt"),
        ("new-tokens", "tokens of an answer"),
        ("rounds", "rounds"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{what}, instead of the usual number")
    options = parser.parse_args()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    machine = {
        "device": f"CPU ({torch.backends.cpu.get_cpu_capability()})",
        "cores": len(os.sched_getaffinity(0)),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "dtype": "float32",
        "python": platform.python_version(),
    }
    shape, load = (QUICK_SHAPE, QUICK_LOAD) if options.quick else (FULL, FULL_LOAD)
    given = {name: getattr(options, name) for name in ("requests", "prompt", "new_tokens", "rounds")}
    load = replace(load, **{name: number for name, number in given.items() if number is not None})
    findings: list[Finding] = []
    details: dict[str, Any] = {}
    if options.only != "gated":
        with tempfile.TemporaryDirectory() as folder:
            findings, details = measure(shape, load, Path(folder))
    if options.only != "routed":
        with tempfile.TemporaryDirectory() as folder:
            found, details["gated"] = measure_gated_serving(shape, load, Path(folder), listens=options.listen)
        findings = [*findings, *found]
    show(findings, machine)
    save(options.out, findings, machine, details)


if __name__ == "__main__":
    main()
