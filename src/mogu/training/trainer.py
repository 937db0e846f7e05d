"""The training loop of one stage: AdamW over steps of similar length, with checkpoints that resume exactly.

Knows how to minimize a loss over examples; does not know what is trained, nor anything of responders and routers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import set_seed

from mogu.errors import TrainingError
from mogu.processes import add_up, copy_from_main, count, gathered, is_main, rank, shards, share_of
from mogu.progress import progress_bars
from mogu.training.collator import Collator, Layout
from mogu.training.cpu_attention import fastest_attention
from mogu.training.examples import AnyExample
from mogu.training.loss_history import HISTORY_FILE, LossHistory
from mogu.training.losses import Losses
from mogu.training.lower_activations import LowerActivations, skipped_lower_layers
from mogu.training.recipe import RunSection, Stage
from mogu.training.sampler import StepBatches
from mogu.training.trackers import tracking
from mogu.training.training_state import (
    ACTIVATIONS_FILE,
    TRACKERS_FOLDER,
    good_checkpoint,
    random_states,
    read_training_state,
    set_random_states,
    step_of,
    write_training_state,
    written_or_refused,
)

MAX_GRADIENT_NORM = 1.0

logger = logging.getLogger(__name__)

Rates = Callable[[str], float]
"""The name of a trained parameter to the share of the learning rate that it is trained with; 0 leaves it as it is, bit for bit."""


@dataclass(frozen=True)
class WarmUp:
    """The first optimizer steps of a training, in which some of the parameters are trained alone.

    The others keep their values, bit for bit, and have no part in the norm that gradients are clipped to; their optimizer state begins
    with the step after the last of these. Learning rate, order of the examples and number of steps are those of any other training.

    Args:
        share: of the number of steps, from 0 to 1; rounded to whole steps.
        trained: whether the parameter of a name is trained in them.
    """

    share: float
    trained: Callable[[str], bool]

    def covers(self, step: int, steps: int) -> bool:
        """Whether a step, counted from 1, is one of them."""
        return step <= round(self.share * steps)


@dataclass(frozen=True)
class Snapshots:
    """Calls ``take(step)`` after the optimizer steps at certain shares of the training.

    Args:
        shares: of the number of steps; 1 is the end.
        take: writes what is to be kept of the model at that moment.
    """

    shares: Sequence[float]
    take: Callable[[int], None]


def step_at(share: float, steps: int) -> int:
    """The optimizer step at a share of a training of ``steps`` steps; at least the first."""
    return max(1, round(share * steps))


def steps_of(stage: Stage, examples: int) -> int:
    """Optimizer steps of a stage over that many examples."""
    return math.ceil(stage.epochs * math.ceil(examples / stage.batch_size))


def rate_share(stage: Stage, taken: int, steps: int) -> float:
    """The share of the learning rate with which the next step is made, in [0, 1], after ``taken`` of ``steps`` steps."""
    if taken < stage.warmup_steps:
        return taken / stage.warmup_steps
    return (steps - taken) / (steps - stage.warmup_steps) if stage.decay else 1.0


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model that are trained, by name: those that require a gradient."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def train_stage(
    model: Any,
    losses: Losses,
    examples: Sequence[AnyExample],
    stage: Stage,
    run: RunSection,
    folder: Path,
    *,
    title: str,
    layout: Layout,
    pad_token_id: int,
    snapshots: Snapshots | None = None,
    rates: Rates | None = None,
    warm_up: WarmUp | None = None,
) -> None:
    """Train until the stage's epochs are over, from the last checkpoint in ``folder`` if there is one.

    The loss of a step is the mean over its examples, however many passes it takes; gradients are clipped to a norm of 1. The model
    is trained on the devices that it is on. Several processes share the passes of every step and add up their gradients, so that all have
    the same weights; the main one writes. Checkpoints are still there when training has ended: the caller first writes what is to
    be kept. The loss of every step is in ``loss_history.jsonl``. Where a pass does not fit the device's memory, passes have half as
    many examples from that step on, as many a step as before; once. Where it can be done, the layers below the first trained one compute
    once rather than in every epoch: :mod:`mogu.training.lower_activations`.

    Args:
        model: a causal language model or a wrapper of one (PEFT's or ours); its parameters that require a gradient are trained.
        losses: the losses of a batch.
        examples: the data.
        stage: learning rate, epochs and batch size.
        run: seed, micro batch, how often to save, and where to report.
        folder: for checkpoints and the loss history.
        title: names the stage in the progress bar and in the loss history.
        layout: how several answers of one prompt are laid out.
        pad_token_id: fills up rows.
        snapshots: what to keep along the way.
        rates: the share of the learning rate for each parameter; without it all are trained with the whole of it.
        warm_up: the steps in which only some of the parameters are trained; none without it.

    Raises:
        TrainingError: the loss of an example or the gradient of a step is not finite, or the device is out of memory.
        MoguError: a checkpoint cannot be written, all that are there are damaged, or another number of processes wrote them.
    """
    set_seed(run.seed + rank())  # so that dropout differs between processes
    model.train()
    loop = _Loop(model, losses, examples, stage, run, folder, title, Collator(pad_token_id, layout), rates, warm_up)
    try:
        loop.run(snapshots)
    except torch.OutOfMemoryError as error:
        if not loop.can_halve:
            raise loop.out_of_memory() from error
    else:
        return
    loop.halve()  # not while the error is handled, whose frames hold on to memory
    try:
        loop.run(snapshots)
    except torch.OutOfMemoryError as error:
        raise loop.out_of_memory() from error


class _Loop:
    def __init__(
        self,
        model: Any,
        losses: Losses,
        examples: Sequence[AnyExample],
        stage: Stage,
        run: RunSection,
        folder: Path,
        title: str,
        collator: Collator,
        rates: Rates | None,
        warm_up: WarmUp | None,
    ) -> None:
        self.model, self.losses = model, losses
        self.examples: Any = examples  # a sequence is all that a DataLoader needs; its types ask for a Dataset
        self.stage, self.settings, self.folder, self.title = stage, run, folder, title
        self.collator, self.batches = collator, self._batches(run.micro_batch_size)
        self.rates, self.warm_up = rates, warm_up
        self.unhalved = self.batches.in_a_pass
        self.done = 0
        self.in_passes = count() == 1  # of several processes, one that is out of memory has to tell the others first
        self.trained = trained_parameters(model)
        self.optimizer = _adamw(self.trained, stage.learning_rate, rates)
        self.device = model.get_input_embeddings().weight.device
        self.steps = steps_of(stage, len(examples))

    def run(self, snapshots: Snapshots | None) -> None:
        snapshot_steps = {step_at(share, self.steps) for share in snapshots.shares} if snapshots is not None else set()
        checkpoint = good_checkpoint(self.folder)
        states = None
        if checkpoint is not None:
            state = read_training_state(checkpoint, self.trained, self.optimizer)
            self.done, states = step_of(checkpoint), state["random"]
            self.batches = self._batches(state["in_a_pass"])
        done = self.done
        copy_from_main(list(self.trained.values()))
        self.optimizer.zero_grad()
        with (
            self._history(done) as record,
            self._attention(),
            self._lower_layers(done) as lower,
            progress_bars() as bars,
        ):
            bar = bars.add_task(self.title, total=self.steps, completed=done, note="")
            for step, indices, passes in self._remaining(done, states):
                numbers = self._take_step(step, indices, passes, lower)
                record(step, numbers)
                bars.update(bar, completed=step, note=f"loss {numbers['loss']:.3f}")
                if snapshots is not None and step in snapshot_steps and is_main():
                    snapshots.take(step)
                if self._is_saved(step):
                    self._write_state(step)
                self.done, self.in_passes = step, count() == 1

    def _is_saved(self, step: int) -> bool:
        return step % self.settings.save_steps == 0 or step == self.steps

    @contextmanager
    def _history(self, done: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
        """Gives a function that records what a step came to, for whoever reads it later or follows it in a tracker."""
        if not is_main():
            yield lambda step, numbers: None
            return
        with written_or_refused(self.folder):
            history = LossHistory(self.folder / HISTORY_FILE, done)
        trackers = tracking(self.settings.report_to, self.folder / TRACKERS_FOLDER, self.model, title=self.title, steps=self.steps)
        with history, trackers as track:

            def record(step: int, numbers: dict[str, float]) -> None:
                epoch = step / self.batches.steps
                with written_or_refused(self.folder):
                    history.append({"stage": self.title, "step": step, "epoch": epoch, **numbers})
                    if self._is_saved(step):
                        history.sync()
                track(step, epoch, numbers)

            yield record

    @property
    def can_halve(self) -> bool:
        """Whether less memory would do: it ran out in a pass, of which a half is left, and was not halved before."""
        # A sharded model is of no more use once a backward pass was broken off.
        return self.in_passes and 1 < self.batches.in_a_pass == self.unhalved and not shards()

    def halve(self) -> None:
        """Leave a checkpoint from which training goes on with half as many examples a pass, and as many a step."""
        before = self.batches.in_a_pass
        self.batches = self._batches(before // 2)
        self.optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._write_state(self.done)
        logger.warning(
            "The device ran out of memory in the %s with %d examples a pass: it goes on with %d a pass, and as many a step as before.",
            self.title,
            before,
            self.batches.in_a_pass,
        )

    def out_of_memory(self) -> TrainingError:
        tried = "" if self.batches.in_a_pass == self.unhalved else f" as with {self.unhalved}"
        return TrainingError(
            f"The device ran out of memory in the {self.title}, with {self.batches.in_a_pass} examples a pass{tried}",
            expected="memory for a pass; `mogu train --dry-run` estimates it",
            action="set run.gradient_checkpointing = true, or lower run.micro_batch_size or run.max_length; then run with --restart",
        )

    def _batches(self, most: int) -> StepBatches:
        return StepBatches(map(len, self.examples), self.stage.batch_size, most, self.settings.seed, count())

    def _write_state(self, step: int) -> None:
        states = gathered(random_states())
        write_training_state(self.folder, step, self.trained, self.optimizer, states=states, in_a_pass=self.batches.in_a_pass)

    def _attention(self) -> AbstractContextManager[None]:
        trial = self.collator(self.examples[: self.batches.in_a_pass])
        longest = max(length for example in self.examples for length in self.collator.row_lengths(example))
        return fastest_attention(self.model, self._losses_of, trial, longest)

    def _lower_layers(self, done: int) -> AbstractContextManager[LowerActivations | None]:
        (self.folder / ACTIVATIONS_FILE).unlink(missing_ok=True)  # a kill may have left one
        # Whether it is done depends on the settings alone: a run that is resumed computes what it would have computed.
        # Of several processes, each makes other passes in every epoch: it would need the states of all examples.
        if not self.settings.cache_activations or self.stage.epochs <= 1 or done == self.steps or count() > 1:
            return nullcontext()
        return skipped_lower_layers(
            self.model, self.trained, self._losses_of, self.examples, self.collator, self.batches.in_a_pass, self.folder, title=self.title
        )

    def _losses_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.losses({name: tensor.to(self.device) for name, tensor in batch.items()})

    def _remaining(self, done: int, states: Mapping[str, Any] | None) -> Iterator[tuple[int, list[list[int]], list[dict[str, Tensor]]]]:
        """Every step from ``done`` on: its number, the examples of all its passes, and those passes that are this process's."""
        first_epoch, skipped = divmod(done, self.batches.steps)
        step = done
        for epoch in range(first_epoch, math.ceil(self.stage.epochs)):
            of_epoch = self.batches.of_epoch(epoch)[skipped:]
            if states is not None and not skipped:
                set_random_states(states)
            # A DataLoader draws a random number as its iterator begins: a run that resumes between epochs has to draw it, too, and a
            # run that resumes within an epoch has drawn it already.
            order = [of_pass for passes in of_epoch for of_pass in share_of(passes)]
            batches = iter(DataLoader(self.examples, batch_sampler=order, collate_fn=self.collator))
            if states is not None and skipped:
                set_random_states(states)
            states, skipped = None, 0
            for indices in of_epoch:
                if step == self.steps:
                    return
                step += 1
                yield step, indices, [next(batches) for _ in share_of(indices)]

    def _take_step(
        self, step: int, indices: list[list[int]], passes: list[dict[str, Tensor]], lower: LowerActivations | None
    ) -> dict[str, float]:
        examples = sum(map(len, indices))
        total, trouble = 0.0, None
        try:
            for of_pass, batch in zip(share_of(indices), passes, strict=True):
                total += self._take_pass(step, of_pass, batch, examples, lower)
        except (TrainingError, torch.OutOfMemoryError) as error:
            if count() == 1:
                raise
            trouble = error.with_traceback(None)  # whose frames hold on to memory
        total = self._add_up(total, trouble)
        for parameter in self._frozen_at(step):
            parameter.grad = None  # AdamW passes over what has none: neither the value nor the moments change
        share = rate_share(self.stage, step - 1, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
        self.in_passes = False  # what follows changes weights, and is not to be done twice
        norm = float(nn.utils.clip_grad_norm_(self.trained.values(), MAX_GRADIENT_NORM))
        if not math.isfinite(norm):
            raise self._not_finite("gradient", step, [index for of_pass in indices for index in of_pass])
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"loss": total / examples, "learning_rate": self.stage.learning_rate * share, "gradient_norm": norm}

    def _take_pass(self, step: int, indices: list[int], batch: dict[str, Tensor], examples: int, lower: LowerActivations | None) -> float:
        """Make one pass of a step of so many examples, forward and backward; return the sum of its losses."""
        if lower is not None:
            lower.feed(indices, batch)
        losses = self._losses_of(batch)
        values = losses.detach()
        if not bool(torch.isfinite(values).all()):
            losses_of = zip(indices, values.tolist(), strict=True)
            raise self._not_finite("loss", step, [index for index, loss in losses_of if not math.isfinite(loss)])
        (losses.sum() / examples).backward()  # type: ignore[no-untyped-call]
        return float(values.sum())

    def _add_up(self, total: float, trouble: Exception | None) -> float:
        """Add up losses and gradients over all processes; with one there is nothing to add.

        Raises:
            Exception: the first trouble that any of them had in its passes, in all of them.
        """
        if count() == 1:
            return total
        named = {name for name, parameter in self.trained.items() if parameter.grad is not None}
        totals, troubles, reached = zip(*gathered((total, trouble, named)), strict=True)
        first = next((trouble for trouble in troubles if trouble is not None), None)
        if first is not None:
            self.in_passes = True
            raise first
        # What no process has a gradient of stays without one: AdamW passes over it.
        everywhere = [parameter for name, parameter in self.trained.items() if any(name in names for names in reached)]
        for parameter in everywhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        add_up([parameter.grad for parameter in everywhere if parameter.grad is not None])
        return float(sum(totals))

    def _frozen_at(self, step: int) -> list[nn.Parameter]:
        alone = self.warm_up.trained if self.warm_up is not None and self.warm_up.covers(step, self.steps) else None
        return [
            parameter
            for name, parameter in self.trained.items()
            if (self.rates is not None and self.rates(name) == 0) or (alone is not None and not alone(name))
        ]

    def _not_finite(self, what: str, step: int, indices: list[int]) -> TrainingError:
        records = [repr(self.examples[index].record_id) for index in indices]
        those = "these records" if len(records) > 1 else "that record"
        return TrainingError(
            f"The {what} is not a number at step {step}, for the record{'s' * (len(records) > 1)} {', '.join(records)}",
            expected=f"a finite {what}",
            action=f"look at {those}; lower the learning rate; or load the model in bfloat16 or float32 instead of float16",
        )


def _adamw(trained: Mapping[str, nn.Parameter], learning_rate: float, rates: Rates | None) -> torch.optim.AdamW:
    by_share: dict[float, list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        by_share.setdefault(1.0 if rates is None else rates(name), []).append(parameter)
    groups = [{"params": parameters, "initial_lr": share * learning_rate} for share, parameters in sorted(by_share.items())]
    return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=0.0)
