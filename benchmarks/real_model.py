"""Measure a real chat model: training by the loop of `mogu train` itself next to the published procedure, then replies and memory.

In training all ways run at once in one thread and change places after every optimizer step, so that each round of turns sees the same
machine. The first turn of each way, in which files are written and things are tried out, counts apart.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.findings import Finding
from benchmarks.memory import MemoryPlan, measure_peaks
from benchmarks.models import Subject, make_base
from benchmarks.speed import SpeedPlan, measure_speed
from benchmarks.timing import Pause, taking_turns
from benchmarks.training import (
    LAYOUT,
    WEIGHT_PENALTY,
    TrainingPlan,
    TrainingWay,
    published_responder,
    published_routers,
    random_examples,
    with_lora,
    with_routers,
)
from mogu.training.examples import Example
from mogu.training.loss_history import HISTORY_FILE
from mogu.training.losses import responder_losses, router_losses
from mogu.training.recipe import ContrastiveStage, RouterStage, RunSection, Stage
from mogu.training.sampler import StepBatches
from mogu.training.trainer import Snapshots, train_stage

LEAST = 3.0
EPOCHS = ContrastiveStage().epochs
"""Over which the first turn of a way that keeps activations is spread: those of the published recipe."""


@dataclass(frozen=True)
class RealModelPlan:
    """How much is measured.

    Args:
        training: prompts, answers and optimizer steps, an even number: two make an epoch.
        first_trained: where a model trained in part begins, as a share of the layers.
        speed: replies; the ways are those of the random model.
        memory: of a reply.
    """

    training: TrainingPlan
    first_trained: float
    speed: SpeedPlan
    memory: MemoryPlan


FULL_PLAN = RealModelPlan(
    TrainingPlan(75, (20, 30), ContrastiveStage().batch_size, RouterStage().batch_size, 6),
    0.5,
    SpeedPlan(caches=(128,), steps=100, replies=((128, 64),), rounds=3),
    MemoryPlan(512, 16, 1),
)
QUICK_PLAN = RealModelPlan(
    TrainingPlan(30, (4, 8), 4, 4, 4), 0.5, SpeedPlan(caches=(16,), steps=4, replies=((16, 8),), rounds=1), MemoryPlan(64, 8, 1)
)


def measure_real_model(plan: RealModelPlan, subject: Subject, device: torch.device) -> tuple[list[Finding], dict[str, Any]]:
    """Return findings, and every timing behind them."""
    findings, details = _measure_training(plan, subject, device)
    replies, details["speed"] = measure_speed(plan.speed, subject, device, torch.float32)
    peaks, details["memory"] = measure_peaks(plan.memory, subject, device, torch.float32)
    return [*findings, *(replace(finding, what=f"real model, {finding.what}") for finding in [*replies, *peaks])], details


def _measure_training(plan: RealModelPlan, subject: Subject, device: torch.device) -> tuple[list[Finding], dict[str, Any]]:
    bases = {dtype: make_base(subject, device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    upper = range(round(plan.first_trained * subject.layers), subject.layers)
    settings: dict[str, tuple[torch.dtype, Sequence[int] | None]] = {
        "float32": (torch.float32, None),
        "bfloat16": (torch.bfloat16, None),
        f"float32, layers {upper.start}-{upper.stop - 1}": (torch.float32, upper),
        f"bfloat16, layers {upper.start}-{upper.stop - 1}": (torch.bfloat16, upper),
    }
    findings: list[Finding] = []
    details: dict[str, Any] = {}
    for name, batch_size in (("responder", plan.training.pairs), ("router", plan.training.records)):
        responder = name == "responder"
        examples = random_examples(subject.vocabulary, plan.training, 2 * batch_size, 2 if responder else 1, 0)
        stage = (ContrastiveStage if responder else RouterStage)(epochs=plan.training.steps / 2, batch_size=batch_size)
        published = (published_responder if responder else published_routers)(bases[torch.float32], device)
        losses: dict[str, float] = {}
        ways = {"published": _published_way(published, examples, stage, losses)}
        for setting, (dtype, layers) in settings.items():
            model = (with_lora if responder else with_routers)(bases[dtype], layers)
            ways[setting] = _our_way(setting, model, examples, stage, losses)
        with contextlib.redirect_stderr(io.StringIO()):  # the progress bars of all ways at once
            turns = taking_turns(ways, device)
        findings += _findings(name, batch_size, turns, settings, losses)
        details[name] = {"seconds": turns, "records_a_step": batch_size, "first_losses": losses}
    return findings, details


def _our_way(name: str, model: Any, examples: Sequence[Example], stage: Stage, first_losses: dict[str, float]) -> Callable[[Pause], None]:
    each = (
        functools.partial(responder_losses, model, layout=LAYOUT)
        if isinstance(stage, ContrastiveStage)
        else functools.partial(router_losses, model, layout=LAYOUT, weight_penalty=WEIGHT_PENALTY)
    )

    def train(pause: Pause) -> None:
        with tempfile.TemporaryDirectory() as scratch, torch.enable_grad():
            folder, steps = Path(scratch), round(2 * stage.epochs)
            run = RunSection(output=folder / "out")
            every_step = Snapshots([(step + 1) / steps for step in range(steps)], lambda _: pause())
            train_stage(model, each, examples, stage, run, folder / "work", title=name, layout=LAYOUT, pad_token_id=0, snapshots=every_step)
            first_losses[name] = json.loads((folder / "work" / HISTORY_FILE).read_text().splitlines()[0])["loss"]

    return train


def _published_way(way: TrainingWay, examples: Sequence[Example], stage: Stage, first_losses: dict[str, float]) -> Callable[[Pause], None]:
    batches = StepBatches(
        [len(example) for example in examples], stage.batch_size, stage.batch_size, RunSection.model_fields["seed"].default
    )

    def train(pause: Pause) -> None:
        with torch.enable_grad():
            for epoch in range(round(stage.epochs)):
                for (step,) in batches.of_epoch(epoch):
                    chosen = [examples[index] for index in step]
                    if "published" not in first_losses:
                        with torch.no_grad():
                            first_losses["published"] = float(way.losses(chosen).mean())
                    way.step(chosen)
                    pause()

    return train


def _findings(
    stage: str,
    batch_size: int,
    turns: dict[str, list[float]],
    settings: dict[str, tuple[torch.dtype, Sequence[int] | None]],
    losses: dict[str, float],
) -> list[Finding]:
    unit = "pairs" if stage == "responder" else "records"
    # The first turn has what is done once, the last one what comes after the last step.
    steps = {name: taken[1:-1] for name, taken in turns.items()}
    findings = []
    for name, (dtype, layers) in settings.items():
        once = turns[name][0] - statistics.median(steps[name])
        # An epoch here has two steps: what was computed once is spread over as many epochs as the published recipe has.
        share = once / (2 * EPOCHS) if layers is not None else 0.0
        ratio = statistics.median(theirs / (ours + share) for theirs, ours in zip(steps["published"], steps[name], strict=True))
        a_second, published = (
            batch_size / seconds for seconds in (statistics.median(steps[name]) + share, statistics.median(steps["published"]))
        )
        findings.append(
            Finding(
                f"training a real model, {stage}",
                name,
                ratio,
                "× published",
                at_least=LEAST if layers is None and dtype == torch.bfloat16 else None,
                note=f"{a_second:.2f} {unit} a second, published {published:.2f}",
            )
        )
    difference = abs(losses["float32"] - losses["published"]) / abs(losses["published"])
    findings.append(Finding(f"training a real model, {stage}: first loss beside the published one", "relative difference", difference))
    return findings
