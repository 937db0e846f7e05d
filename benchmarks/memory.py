"""Measure the peak memory of each way to reply, and the parameters that routing adds at the shape of Llama-2-7B.

Each way runs in a process of its own, which prints by how much its peak exceeds the memory it held before there was a model: on the CPU
resident memory as the kernel counts it, on a GPU what PyTorch has allocated.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.findings import Finding
from benchmarks.models import LLAMA_2_7B, SMALL, LlamaShape, Subject, find_subject, make_base, make_published, make_routed, random_prompt
from benchmarks.speed import ROUTED_TOKENS
from mogu import MoguModel

MOST = 1.02
MOST_ADDED_PERCENT = 0.1
WAYS = ("base", "continue", "recompute", "published")
MEGABYTE = 1e6
_RELEASE_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
"""For glibc: otherwise freed blocks stay resident, and the peak shows how fragmented the heap is rather than what is in use."""


@dataclass(frozen=True)
class MemoryPlan:
    """How much is measured: prompt tokens, new tokens, and processes for each way."""

    prompt_tokens: int
    new_tokens: int
    repetitions: int


FULL_PLAN = MemoryPlan(1024, 16, 3)
QUICK_PLAN = MemoryPlan(64, 8, 1)


def measure_memory(plan: MemoryPlan, shape: LlamaShape, device: torch.device, dtype: torch.dtype) -> tuple[list[Finding], dict[str, Any]]:
    """Return findings, and the bytes behind them."""
    findings, runs = measure_peaks(plan, shape, device, dtype)
    added = added_parameters(LLAMA_2_7B)
    for name, parameters in added.items():
        if name != "base":
            most = MOST_ADDED_PERCENT if name == "mogu" else None
            percent = 100 * parameters / added["base"]
            findings.append(Finding("added parameters", f"{LLAMA_2_7B.name}, {name}", percent, "%", at_most=most, note=f"{parameters:,}"))
    return findings, {"runs": runs, "prompt_tokens": plan.prompt_tokens, "new_tokens": plan.new_tokens, "added_parameters": added}


def measure_peaks(
    plan: MemoryPlan, shape: Subject, device: torch.device, dtype: torch.dtype
) -> tuple[list[Finding], dict[str, list[dict[str, int]]]]:
    """Return findings on the memory of each way to reply, and the bytes behind them."""
    runs: dict[str, list[dict[str, int]]] = {way: [] for way in WAYS}
    for _ in range(plan.repetitions):
        for way in WAYS:
            runs[way].append(_in_own_process(way, shape, plan, device, dtype))
    peaks = {way: statistics.median(run["peak_bytes"] for run in way_runs) for way, way_runs in runs.items()}
    weights = {way: way_runs[0]["weight_bytes"] for way, way_runs in runs.items()}
    case = f"{plan.prompt_tokens} + {plan.new_tokens} tokens"
    findings = [
        Finding(
            f"peak memory, {way}",
            case,
            peaks[way] / peaks["base"],
            "× base",
            at_most=None if way == "published" else MOST,
            note=f"{peaks[way] / MEGABYTE:.0f} MB, base {peaks['base'] / MEGABYTE:.0f} MB",
        )
        for way in WAYS[1:]
    ]
    findings += [
        Finding("weights in memory", way, weights[way] / weights["base"], "× base", at_most=None if way == "published" else MOST)
        for way in ("recompute", "published")
    ]
    return findings, runs


def added_parameters(shape: LlamaShape) -> dict[str, int]:
    """Count the parameters of the base model and those that routing and the published modules add, on models without memory."""
    meta = torch.device("meta")
    base = make_base(shape, meta, torch.float32)
    parameters = sum(parameter.numel() for parameter in base.parameters())
    mogu = MoguModel.from_base(base)
    counts = {"base": parameters, "mogu": mogu.added_parameters()}
    # One published layer represents all: they are alike, and drawing 270 million numbers only to count them takes long.
    one_layer = LlamaShape(shape.name, shape.hidden, 16, 1, shape.heads, 16)
    counts["published"] = shape.layers * make_published(make_base(one_layer, torch.device("cpu"), torch.float32)).added_parameters()
    return counts


def measured_apart(module: str, arguments: Sequence[str]) -> Any:
    """What a module's last line of output says, as JSON, run in a process whose memory nothing else has been in.

    Args:
        module: of this package; it is run with ``python -m``.
        arguments: its command line.

    Raises:
        RuntimeError: it failed.
    """
    run = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ | _RELEASE_AT_ONCE,
    )
    if run.returncode != 0:
        raise RuntimeError(f"`{module} {' '.join(arguments)}`, which measures, failed:\n{run.stdout}\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def _in_own_process(way: str, shape: Subject, plan: MemoryPlan, device: torch.device, dtype: torch.dtype) -> dict[str, int]:
    lengths = ["--prompt", str(plan.prompt_tokens), "--new", str(plan.new_tokens)]
    options = ["--way", way, "--shape", shape.name, "--device", str(device), "--dtype", str(dtype).removeprefix("torch.")]
    measured: dict[str, int] = measured_apart("benchmarks.memory", [*options, *lengths])
    return measured


def _measure_here(way: str, shape: Subject, plan: MemoryPlan, device: torch.device, dtype: torch.dtype) -> dict[str, int]:
    small, _ = _make(way, SMALL, device, dtype)
    small(random_prompt(SMALL, 8, device), ROUTED_TOKENS + 2)  # libraries allocate their own memory on first use
    del small
    gc.collect()
    before = held(device)
    reset_peak(device)
    reply, models = _make(way, shape, device, dtype)
    reply(random_prompt(shape, plan.prompt_tokens, device), plan.new_tokens)
    tensors = {id(tensor): tensor for model in models for tensor in model.parameters()}
    return {
        "peak_bytes": peak(device) - before,
        "before_bytes": before,
        "weight_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
    }


def _make(
    way: str, shape: Subject, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[Tensor, int], Tensor], list[torch.nn.Module]]:
    base = make_base(shape, device, dtype)
    if way == "published":
        published = make_published(base)
        return published.generate, [published.routed, published.base]
    model: Any = base if way == "base" else make_routed(base)
    options = {} if way == "base" else {"handoff": way, "routed_tokens": ROUTED_TOKENS}

    def reply(prompt: Tensor, new_tokens: int) -> Tensor:
        ids: Tensor = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, do_sample=False, **options)
        return ids

    return reply, [model]


def held(device: torch.device) -> int:
    """Bytes that this process holds: on a GPU what PyTorch has allocated there, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status_bytes("VmRSS") or _highest_rss()


def reset_peak(device: torch.device) -> None:
    """Let :func:`peak` begin anew, where the system lets it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (file := Path("/proc/self/clear_refs")).is_file():
        file.write_text("5")


def peak(device: torch.device) -> int:
    """The most bytes that this process has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Rather than ru_maxrss, which Linux inherits from the process that started this one.
    return _status_bytes("VmHWM") or _highest_rss()


def _status_bytes(field: str) -> int:
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    values = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return 1024 * int(values.get(field, "0 kB").split()[0])


def _highest_rss() -> int:
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else 1024 * highest


def _main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure one way to reply in this process; `python -m benchmarks` starts it.")
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--shape", required=True)
    parser.add_argument("--device", type=torch.device, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--prompt", type=int, required=True)
    parser.add_argument("--new", type=int, required=True)
    options = parser.parse_args(arguments)
    plan = MemoryPlan(options.prompt, options.new, 1)
    print(json.dumps(_measure_here(options.way, find_subject(options.shape), plan, options.device, getattr(torch, options.dtype))))


if __name__ == "__main__":
    _main()
