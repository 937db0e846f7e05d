"""Run all benchmarks, print one table and save it: ``python -m benchmarks`` (or ``make bench``)."""

from __future__ import annotations

import argparse
import os
import platform
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from benchmarks import gated, judging, memory, prefix_reuse, real_model, replies, speed, training
from benchmarks.findings import Finding, save, show
from benchmarks.models import FULL, SMALL, LlamaShape, RealModel, Subject
from mogu.errors import MoguError

Measure = Callable[[LlamaShape, torch.device, torch.dtype], tuple[list[Finding], dict[str, Any]]]

FULL_PLANS: dict[str, Measure] = {
    "speed": partial(speed.measure_speed, speed.FULL_PLAN),
    "prefix_reuse": partial(prefix_reuse.measure_prefix_reuse, prefix_reuse.FULL_PLAN),
    "memory": partial(memory.measure_memory, memory.FULL_PLAN),
    "training": partial(training.measure_training, training.FULL_PLAN),
    "judging": partial(judging.measure_judging, judging.FULL_PLAN),
}
QUICK_PLANS: dict[str, Measure] = {
    "speed": partial(speed.measure_speed, speed.QUICK_PLAN),
    "prefix_reuse": partial(prefix_reuse.measure_prefix_reuse, prefix_reuse.QUICK_PLAN),
    "memory": partial(memory.measure_memory, memory.QUICK_PLAN),
    "training": partial(training.measure_training, training.QUICK_PLAN),
    "judging": partial(judging.measure_judging, judging.QUICK_PLAN),
}

GATED, REPLIES, REAL = "gated", "replies", "real_model"


def _machine(device: torch.device, dtype: torch.dtype) -> dict[str, str | int]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({torch.backends.cpu.get_cpu_capability()})",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _real_model(source: str, *, quick: bool, console: Console) -> Subject | None:
    if quick:
        return SMALL
    try:
        return RealModel.find(source)
    except MoguError as error:
        console.print(f"{REAL}: left out ({error.found})")
        return None


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure speed, memory and training next to the base model and the published procedure."
    )
    parser.add_argument(
        "--quick", action="store_true", help="use a tiny model and few repetitions, to check that everything runs; the numbers mean nothing"
    )
    parser.add_argument(
        "--smollm2",
        default="smollm2",
        metavar="MODEL",
        help="the real model to measure in the end, as a folder, a name or a hub id; left out where it cannot be found",
    )
    parser.add_argument("--only", choices=[*FULL_PLANS, GATED, REPLIES, REAL], nargs="*", help="measure these parts alone")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder for results.json and results.md")
    options = parser.parse_args()
    dtype: torch.dtype = getattr(torch, options.dtype)
    shape = SMALL if options.quick else FULL
    machine = _machine(options.device, dtype)
    console = Console(stderr=True)
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)  # PEFT and transformers warn about each other

    plans = dict(QUICK_PLANS if options.quick else FULL_PLANS)
    wants_real = not options.only or {GATED, REPLIES, REAL} & set(options.only)
    real = _real_model(options.smollm2, quick=options.quick, console=console) if wants_real else None
    if real is not None:
        asked = (replies.QUICK_PLAN, None) if options.quick else (replies.FULL_PLAN, options.smollm2)
        plans[REPLIES] = partial(replies.measure_replies, *asked)
        gated_plan, subject = gated.QUICK_PLAN if options.quick else gated.FULL_PLAN, real
        plans[GATED] = lambda _, device, dtype: gated.measure_gated(gated_plan, subject, device, dtype)
    findings: list[Finding] = []
    details: dict[str, Any] = {}
    for name, measure in plans.items():
        if options.only and name not in options.only:
            continue
        console.print(f"{name}: {shape.name}")
        measured, details[name] = measure(shape, options.device, dtype)
        findings += measured
    if real is not None and (not options.only or REAL in options.only):
        console.print(f"{REAL}: {real.name}")
        measured, details[REAL] = real_model.measure_real_model(
            real_model.QUICK_PLAN if options.quick else real_model.FULL_PLAN, real, options.device
        )
        findings += measured
    show(findings, machine)
    save(options.out, findings, machine, {"shape": shape.name, "quick": options.quick, **details})
    console.print(f"saved in {options.out}")


if __name__ == "__main__":
    main()
