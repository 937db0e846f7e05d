"""Compare throughput and memory of vLLM with a MoGU model and of plain vLLM on the same base: ``make bench-vllm``.

Both engines exist in one run, each in a process of its own, and take turns; the waiting one is idle.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.findings import Finding, save, show
from benchmarks.models import FULL, LlamaShape, make_base, make_routed


@dataclass(frozen=True)
class Load:
    """The requests that an engine gets in one turn, all at once."""

    requests: int
    prompt: int
    new_tokens: int
    rounds: int


FULL_LOAD = Load(64, 128, 128, 3)
QUICK_LOAD = Load(8, 32, 16, 2)
QUICK_SHAPE = LlamaShape("Llama, 0.4M parameters", 128, 256, 2, 4, 512)  # vLLM's attention on a CPU needs heads of at least 32
WAYS: dict[str, str | None] = {"plain vLLM": None, "continue": "continue", "recompute": "recompute"}


class Engine:
    """A vLLM engine and the process that computes for it."""

    def __init__(self, base: Path, load: Load, **options: Any) -> None:
        from vllm import LLM

        earlier = set(psutil.Process().children(recursive=True))
        length = load.prompt + load.new_tokens
        self.llm = LLM(
            str(base),
            dtype="float32",
            enforce_eager=True,
            skip_tokenizer_init=True,
            max_model_len=2 * length,
            max_num_seqs=load.requests,
            enable_prefix_caching=False,  # what is measured is work, not reuse
            **options,
        )
        self.processes = [process for process in psutil.Process().children(recursive=True) if process not in earlier]

    def seconds(self, prompts: list[list[int]], new_tokens: int, adapter: Path | None, handoff: str | None) -> float:
        """Return the wall-clock time of answering all prompts, each with exactly ``new_tokens`` tokens."""
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        extra = {"mogu": {"handoff": handoff}} if handoff else None
        parameters = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True, detokenize=False, extra_args=extra)
        lora = LoRARequest("mogu", 1, str(adapter)) if handoff else None
        started = time.perf_counter()
        outputs = self.llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], parameters, lora_request=lora, use_tqdm=False)
        taken = time.perf_counter() - started
        assert all(len(output.outputs[0].token_ids) == new_tokens for output in outputs)
        return taken

    def resident(self) -> int:
        """Return the bytes of resident memory of the engine's processes."""
        return sum(process.memory_info().rss for process in self.processes)


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
            taken = (routed if handoff else plain).seconds(prompts, load.new_tokens, adapter, handoff)
            if number:  # the first round warms up
                seconds[way].append(taken)
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
    with tempfile.TemporaryDirectory() as folder:
        findings, details = measure(shape, load, Path(folder))
    show(findings, machine)
    save(options.out, findings, machine, details)


if __name__ == "__main__":
    main()
