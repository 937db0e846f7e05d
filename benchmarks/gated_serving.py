"""Serve gated traffic beside plain vLLM: throughput, time to the first token and time a token, all benign and with a tenth malicious.

The gate's own numbers find nothing malicious; a tenth of the requests ask for a dial that has it flag them. So who is flagged is known,
and what a request costs is what it costs at any numbers.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.findings import Finding
from benchmarks.models import LlamaShape, make_base, make_gated
from benchmarks.vllm_engine import Engine, Load, Turn
from mogu.modeling.adapter_files import Adapter
from mogu.serving.packed_adapter import TAPS
from mogu.training.gated.fit import default_taps

PLAIN, BENIGN, MIXED = "plain vLLM", "all benign", "a tenth malicious"
FLAGGED = {"dial": 40.0}
"""Settings by which a gate flags what it has found harmless."""
LEAST_THROUGHPUT = 0.97
"""Of plain vLLM's, where nothing is flagged: a gate is to cost a benign request next to nothing."""


def measure_gated_serving(
    shape: LlamaShape, load: Load, folder: Path, *, listens: bool = False
) -> tuple[list[Finding], dict[str, list[dict[str, Any]]]]:
    """Measure all ways in turns whose order changes every round; ratios are medians of the rounds' ratios.

    Args:
        shape: of the base model.
        load: the requests of one turn.
        folder: for the models.
        listens: whether the gated model listens to its answers too.

    Returns:
        Findings, and of each way and round the seconds until all was answered, to the first tokens, and from token to token.
    """
    base, adapter = folder / "base", folder / "mogu"
    model = make_base(shape, torch.device("cpu"), torch.float32)
    model.save_pretrained(base)
    gated = make_gated(model, listens=listens)
    gated.injected.set_responder("unwill", _random_like(gated.injected.responder("unwill")))
    gated.save_pretrained(adapter)
    taps = {TAPS: default_taps(shape.layers)}
    plain = Engine(base, load)
    served = Engine(base, load, enable_lora=True, max_lora_rank=8, max_loras=1, lora_target_modules=["o_proj"], additional_config=taps)
    malicious = [index % 10 == 9 for index in range(load.requests)]
    asked: dict[str, list[dict[str, float] | None]] = {
        PLAIN: [None] * load.requests,
        BENIGN: [None] * load.requests,
        MIXED: [FLAGGED if flag else None for flag in malicious],
    }
    numbers = random.Random(0)
    turns: dict[str, list[Turn]] = {way: [] for way in asked}
    for number in range(load.rounds + 1):
        prompts = [[numbers.randrange(2, shape.vocabulary) for _ in range(load.prompt)] for _ in range(load.requests)]
        ways = list(asked)
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            turn = (
                plain.turn(prompts, load.new_tokens, None, asked[way])
                if way == PLAIN
                else served.turn(prompts, load.new_tokens, adapter, asked[way])
            )
            if number:  # the first round warms up
                turns[way].append(turn)
    findings = [finding for way in (BENIGN, MIXED) for finding in _compare(turns, way, load, listens=listens)]
    return findings, {way: [vars(turn) for turn in rounds] for way, rounds in turns.items()}


def _compare(turns: dict[str, list[Turn]], way: str, load: Load, *, listens: bool) -> list[Finding]:
    tokens = load.requests * load.new_tokens
    case = f"{load.requests} × {load.prompt} + {load.new_tokens}, gated{', listening' if listens else ''}, {way}"
    rounds = list(zip(turns[way], turns[PLAIN], strict=True))
    speeds = [statistics.median(tokens / turn.seconds for turn in turns[name]) for name in (way, PLAIN)]
    ratio = statistics.median(plain.seconds / gated.seconds for gated, plain in rounds)
    note = f"{speeds[0]:.0f} tokens/s, plain vLLM {speeds[1]:.0f}"
    findings = [Finding("throughput", case, ratio, "×", at_least=LEAST_THROUGHPUT if way == BENIGN else None, note=note)]
    for what, name in (("time to first token", "first"), ("time a token", "between")):
        for percent in (50, 99):
            pairs = [tuple(percentile(getattr(turn, name), percent) for turn in pair) for pair in rounds]
            middle = [1000 * statistics.median(side) for side in zip(*pairs, strict=True)]
            note = f"{middle[0]:.1f} ms, plain vLLM {middle[1]:.1f} ms"
            findings.append(Finding(f"{what}, p{percent}", case, statistics.median(ours / base for ours, base in pairs), "×", note=note))
    return findings


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent of all do not exceed, between two of them in proportion."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(percent / 100))


def _random_like(expert: Adapter) -> Adapter:
    random_numbers = torch.Generator().manual_seed(1)
    weights = {
        name: tuple(torch.randn(part.shape, generator=random_numbers) * 0.02 for part in pair) for name, pair in expert.weights.items()
    }
    return Adapter(weights, expert.rank, expert.lora_alpha, expert.fan_in_fan_out)
