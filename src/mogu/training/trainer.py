"""One stage's training loop: Hugging Face's Trainer with whole checkpoints, exact resuming and an eye on the loss.

Knows how to run a loss over examples; knows nothing of what is trained, nor of responders and routers.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from mogu.errors import MoguError, TrainingError
from mogu.files.atomic import discard
from mogu.progress import progress_bars
from mogu.training.collator import Collator, ExampleDataset, Layout
from mogu.training.examples import AnyExample
from mogu.training.recipe import RunSection, Stage
from mogu.training.sampler import StepBatches
from mogu.training.workspace import last_checkpoint

TRAINED_FILE = "trained.safetensors"

Losses = Callable[[dict[str, Tensor]], Tensor]
"""A batch to the loss of each of its examples, ``[examples]``, float32."""


Rates = Callable[[str], float]
"""A trained parameter's name, as in :meth:`Trainee.trained`, to the share of the learning rate that it learns with."""


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
        """Mean loss of the last pass, for whoever shows it."""

    def forward(self, **batch: Tensor) -> Tensor:
        """Loss of each example of a batch, ``[examples]``."""
        return self.losses(batch)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


@dataclass(frozen=True)
class Snapshots:
    """Calls ``take(step)`` after the optimizer steps that lie at some shares of the training.

    Args:
        shares: of the whole number of steps; 1 is the end.
        take: writes what is wanted of the model as it is then.
    """

    shares: Sequence[float]
    take: Callable[[int], None]


def step_at(share: float, steps: int) -> int:
    """The optimizer step at a share of a training of ``steps`` steps; at least the first."""
    return max(1, round(share * steps))


def steps_of(stage: Stage, examples: int) -> int:
    """Optimizer steps of a stage over so many examples."""
    return math.ceil(stage.epochs * math.ceil(examples / stage.batch_size))


def train_stage(
    trainee: Trainee,
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
) -> None:
    """Train until the stage's epochs are over, from the last checkpoint in ``folder`` where there is one.

    A step's loss is the mean over its examples, in however many passes. Checkpoints stay when it has ended: what is to
    be kept is the caller's to write, and only then are they of no use.

    Args:
        trainee: model and losses.
        examples: the data.
        stage: learning rate, epochs and batch size.
        run: seed, micro batch and how often to save.
        folder: for checkpoints.
        title: for the progress bar.
        layout: how answers of one prompt are laid out.
        pad_token_id: for padding.
        snapshots: what to keep on the way.
        rates: the share of the learning rate that each parameter learns with; without it all learn with the whole of it.

    Raises:
        TrainingError: the loss of an example is no longer a number, or the memory does not suffice.
        MoguError: a checkpoint cannot be written.
    """
    batches = StepBatches([len(example) for example in examples], stage.batch_size, run.micro_batch_size, run.seed)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batches.in_a_pass,
        gradient_accumulation_steps=batches.passes,
        num_train_epochs=stage.epochs,
        learning_rate=stage.learning_rate,
        warmup_steps=stage.warmup_steps,
        lr_scheduler_type="constant_with_warmup" if stage.warmup_steps else "constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch",
        save_strategy="steps",
        save_steps=run.save_steps,
        save_total_limit=1,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=run.seed,
        data_seed=run.seed,
    )
    # Further GPUs are for a model that is spread over them: a copy on each would make steps of another size.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    checkpoint = last_checkpoint(folder)
    with progress_bars() as progress:
        callbacks: list[TrainerCallback] = [_Bar(progress, title), _Epochs(batches)]
        if snapshots is not None:
            callbacks.append(_TakeSnapshots(snapshots))
        trainer = _StageTrainer(
            model=trainee,
            args=arguments,
            train_dataset=ExampleDataset(examples),
            data_collator=Collator(pad_token_id, layout),
            callbacks=callbacks,
        )
        trainer.batches, trainer.rates = batches, rates
        # A step's loss is divided by the step's examples below, not by its passes.
        trainer.model_accepts_loss_kwargs = True
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"The device ran out of memory in the {title}, with {batches.in_a_pass} examples a pass",
                expected="memory for a pass; `mogu train --dry-run` estimates it",
                action="set run.gradient_checkpointing = true, or lower run.micro_batch_size or run.max_length; then run with --restart",
            ) from error


class _StageTrainer(Trainer):
    batches: StepBatches
    rates: Rates | None

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        if self.rates is None:
            return super().create_optimizer()
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.accelerator.unwrap_model(self.model).trained().items():
            groups.setdefault(self.rates(name), []).append(parameter)
        optimizer, options = self.get_optimizer_cls_and_kwargs(self.args)
        options["weight_decay"] = self.args.weight_decay  # PyTorch's own default is another
        rated = [{"params": some, "lr": share * options["lr"]} for share, some in sorted(groups.items())]
        self.optimizer = optimizer(rated, **options)
        return self.optimizer

    def get_train_dataloader(self) -> DataLoader[Any]:
        assert isinstance(self.train_dataset, ExampleDataset)
        # Not prepared by accelerate, which would reorder; inputs are moved to the device pass by pass.
        return DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        passes, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return passes, sum(len(batch["examples"].unique()) for batch in passes)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        losses = model(**inputs)
        known = losses.detach()
        if not bool(torch.isfinite(known).all()):
            self._stop(inputs, known)
        self.accelerator.unwrap_model(model).last_loss = float(known.mean())
        return losses.sum() / num_items_in_batch

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
        name = f"checkpoint-{self.state.global_step}"
        before = [path for path in folder.glob("checkpoint-*") if path.name != name]
        try:
            super()._save_checkpoint(model, trial)
            discard(folder / name)
            os.replace(incoming / name, folder / name)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors each have their own error for a full disk
            shutil.rmtree(incoming, ignore_errors=True)
            raise MoguError(
                f"A checkpoint in {folder} could not be written: {getattr(error, 'strerror', None) or error}",
                expected="a place with enough space that you may write to",
                action="free space, then run again with --resume; or set run.work to another place",
            ) from error
        for path in before:
            discard(path)


class _Epochs(TrainerCallback):
    def __init__(self, batches: StepBatches) -> None:
        self.batches = batches

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.batches.epoch = state.global_step // self.batches.steps


class _TakeSnapshots(TrainerCallback):
    def __init__(self, snapshots: Snapshots) -> None:
        self.snapshots = snapshots

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step in {step_at(share, state.max_steps) for share in self.snapshots.shares}:
            self.snapshots.take(state.global_step)


class _Bar(TrainerCallback):
    def __init__(self, progress: Progress, title: str) -> None:
        self.progress, self.title = progress, title
        self.task: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.task = self.progress.add_task(self.title, total=state.max_steps, completed=state.global_step, note="")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any) -> None:
        self.progress.update(self.task, completed=state.global_step, note=f"loss {model.last_loss:.3f}")
