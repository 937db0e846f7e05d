"""One stage's training loop: Hugging Face's Trainer with whole checkpoints, a progress bar and an eye on the loss.

Knows how to run a loss over examples; knows nothing of what is trained, nor of responders and routers.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from mogu.errors import MoguError, TrainingError
from mogu.training.batches import Collator, ExampleDataset, Layout
from mogu.training.examples import Example
from mogu.training.recipe import RunSection, Stage

TRAINED_FILE = "trained.safetensors"

Losses = Callable[[dict[str, Tensor]], Tensor]
"""A batch to the loss of each of its examples, ``[examples]``."""


class Trainee(nn.Module):
    """What the Trainer trains: a model together with the losses it is trained for.

    Args:
        model: the model; of its parameters those that require a gradient are trained.
        losses: the losses of a batch.
    """

    def __init__(self, model: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.model = model
        self.losses = losses
        if hasattr(model, "hf_device_map"):
            # The Trainer leaves a model where it is that is spread over several devices.
            self.hf_device_map = model.hf_device_map
        self.last_loss = math.nan
        """Loss of the last batch, for whoever shows it."""

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """``{"loss": [], "losses": [examples]}`` of a batch."""
        losses = self.losses(batch)
        return {"loss": losses.mean(), "losses": losses}

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


@dataclass(frozen=True)
class Snapshots:
    """Calls ``take(step)`` after the optimiser steps that lie at some shares of the training.

    Args:
        shares: of the whole number of steps; 1 is the end.
        take: writes what is wanted of the model as it is then.
    """

    shares: Sequence[float]
    take: Callable[[int], None]

    def steps(self, total: int) -> list[int]:
        """The steps, each at least 1, in order and without repetition."""
        return sorted({max(1, round(share * total)) for share in self.shares})


def train_stage(
    trainee: Trainee,
    examples: Sequence[Example],
    stage: Stage,
    run: RunSection,
    folder: Path,
    *,
    title: str,
    layout: Layout,
    pad_token_id: int,
    resume: bool,
    snapshots: Snapshots | None = None,
) -> None:
    """Train until the stage's epochs are over.

    Checkpoints are removed when it has ended; what is to be kept is the caller's to write.

    Args:
        trainee: model and losses.
        examples: the data.
        stage: learning rate, epochs and batch size.
        run: seed, micro batch and how often to save.
        folder: for checkpoints.
        title: for the progress bar.
        layout: how answers of one prompt are laid out.
        pad_token_id: for padding.
        resume: go on from the last whole checkpoint in ``folder``, if there is one; otherwise begin anew.
        snapshots: what to keep on the way.

    Raises:
        TrainingError: the loss of an example is no longer a number.
        MoguError: no space is left for checkpoints.
    """
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    checkpoint = last_checkpoint(folder)
    micro = min(run.micro_batch_size, stage.batch_size)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=math.ceil(stage.batch_size / micro),
        num_train_epochs=stage.epochs,
        learning_rate=stage.learning_rate,
        warmup_steps=stage.warmup_steps,
        lr_scheduler_type="constant_with_warmup" if stage.warmup_steps else "constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch",
        train_sampling_strategy="group_by_length",
        save_strategy="steps",
        save_steps=run.save_steps,
        save_total_limit=1,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=run.seed,
        data_seed=run.seed,
    )
    with _progress() as progress:
        callbacks: list[TrainerCallback] = [_Bar(progress, title)]
        if snapshots is not None:
            callbacks.append(_TakeSnapshots(snapshots))
        trainer = _StageTrainer(
            model=trainee,
            args=arguments,
            train_dataset=ExampleDataset(examples),
            data_collator=Collator(pad_token_id, layout),
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except OSError as error:
            raise MoguError(
                f"A checkpoint in {folder} could not be written: {error.strerror or error}",
                expected="a place with enough space that you may write to",
                action="free space or set run.work to another place, then run again with --resume",
            ) from error
    trainer.accelerator.free_memory()
    for path in [*folder.glob("checkpoint-*"), folder / ".incoming"]:  # optimiser states are large, and of no more use
        shutil.rmtree(path, ignore_errors=True)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a stage; each is whole, since it gets its name only when it is complete."""
    found = [(int(path.name.rpartition("-")[2]), path) for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return max(found)[1] if found else None


class _StageTrainer(Trainer):
    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        outputs = model(**inputs)
        losses = outputs["losses"].detach()
        if not bool(torch.isfinite(losses).all()):
            self._stop(inputs, losses)
        self.accelerator.unwrap_model(model).last_loss = float(losses.mean())
        return outputs["loss"]

    def _stop(self, inputs: dict[str, Tensor], losses: Tensor) -> None:
        dataset = self.train_dataset
        assert isinstance(dataset, ExampleDataset)
        rows = inputs["examples"].tolist()
        numbers = rows[:: max(1, len(rows) // len(losses))]
        broken = [
            dataset.examples[number].record_id for number, loss in zip(numbers, losses.tolist(), strict=True) if not math.isfinite(loss)
        ]
        raise TrainingError(
            f"The loss is not a number at step {self.state.global_step + 1}, for the record {', '.join(map(repr, broken))}",
            expected="a finite loss",
            action="look at that record; lower the learning rate; or load the model in bfloat16 or float32 instead of float16",
        )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # Only what is trained: the base model is large, and is where it came from.
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        trainee = self.accelerator.unwrap_model(self.model)
        save_file({name: parameter.detach().cpu().contiguous() for name, parameter in trainee.trained().items()}, folder / TRAINED_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        trainee = self.accelerator.unwrap_model(model or self.model)
        saved = load_file(Path(resume_from_checkpoint) / TRAINED_FILE)
        with torch.no_grad():
            for name, parameter in trainee.trained().items():
                parameter.copy_(saved[name])

    def _get_output_dir(self, trial: Any = None) -> str:
        return os.path.join(str(self.args.output_dir), ".incoming")

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        # Written apart, then renamed: a kill in between leaves the checkpoint before.
        folder = Path(str(self.args.output_dir))
        incoming = folder / ".incoming"
        shutil.rmtree(incoming, ignore_errors=True)
        super()._save_checkpoint(model, trial)
        if not self.args.should_save:
            return
        name = f"checkpoint-{self.state.global_step}"
        before = [path for path in folder.glob("checkpoint-*") if path.name != name]
        shutil.rmtree(folder / name, ignore_errors=True)
        os.replace(incoming / name, folder / name)
        for path in before:
            shutil.rmtree(path, ignore_errors=True)


class _TakeSnapshots(TrainerCallback):
    def __init__(self, snapshots: Snapshots) -> None:
        self.snapshots = snapshots

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and state.global_step in self.snapshots.steps(state.max_steps):
            self.snapshots.take(state.global_step)


class _Bar(TrainerCallback):
    def __init__(self, progress: Progress, title: str) -> None:
        self.progress, self.title = progress, title
        self.task: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.task = self.progress.add_task(self.title, total=state.max_steps, completed=state.global_step, loss="")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any) -> None:
        if self.task is not None:
            loss = getattr(model, "module", model).last_loss
            self.progress.update(self.task, completed=state.global_step, loss=f"loss {loss:.3f}")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep the Trainer's and the loaders' own chatter out of the progress bars."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between PEFT and transformers, of no use to a person who trains
            yield
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
