"""The training loop: the very weights that transformers' Trainer gives, on many settings, and one line of history for every step."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

from mogu.data import Record
from mogu.errors import TrainingError
from mogu.progress import quiet_transformers
from mogu.training.collator import Collator
from mogu.training.examples import Example, router_examples
from mogu.training.losses import answer_losses
from mogu.training.recipe import RunSection, Stage
from mogu.training.sampler import StepBatches
from mogu.training.trainer import Rates, Snapshots, step_at, steps_of, train_stage, trained_parameters

SEED, MICRO = 7, 2


def with_lora(folder: Path) -> Any:
    set_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.2, target_modules=["o_proj", "up_proj"], task_type="CAUSAL_LM")
    return get_peft_model(base, config)


@pytest.fixture
def examples(base_folder: Path, records: list[Record]) -> list[Example]:
    return router_examples(AutoTokenizer.from_pretrained(base_folder), records, max_length=128)


@pytest.fixture
def train(examples: list[Example], tmp_path: Path) -> Callable[..., None]:
    def train(model: Any, stage: Stage, folder: str = "stage", rates: Rates | None = None, **options: Any) -> None:
        run = RunSection(output=tmp_path / "out", seed=SEED, micro_batch_size=MICRO, save_steps=3)
        losses = options.pop("losses", functools.partial(answer_losses, model, layout="separate"))
        where = {"title": "stage", "layout": "separate", "pad_token_id": 0}
        train_stage(model, losses, examples, stage, run, tmp_path / folder, rates=rates, **where, **options)

    return train


class PublishedTrainer(Trainer):
    """transformers' own loop, told nothing but which examples a step has and what their loss is."""

    def __init__(self, model: Any, examples: list[Example], stage: Stage, rates: Rates | None, folder: Path) -> None:
        self.batches = StepBatches([len(example) for example in examples], stage.batch_size, MICRO, SEED)
        self.rates, self.step_losses = rates, []
        arguments = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=self.batches.in_a_pass,
            gradient_accumulation_steps=self.batches.passes,
            num_train_epochs=stage.epochs,
            learning_rate=stage.learning_rate,
            warmup_steps=stage.warmup_steps,
            lr_scheduler_type="linear" if stage.decay else "constant_with_warmup" if stage.warmup_steps else "constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            optim="adamw_torch",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=True,
            seed=SEED,
        )
        super().__init__(model=model, args=arguments, train_dataset=examples, data_collator=Collator(0, "separate"))
        self.model_accepts_loss_kwargs = True

    def create_optimizer(self, *_: Any) -> Any:
        named = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        rate = self.args.learning_rate
        groups = [{"params": [parameter], "lr": rate * (self.rates(name) if self.rates else 1.0)} for name, parameter in named]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
        return self.optimizer

    def get_train_dataloader(self) -> Any:
        batches = self.batches

        class Epochs:
            epoch = -1

            def __len__(self) -> int:
                return sum(map(len, batches.of_epoch(0)))

            def __iter__(self) -> Any:
                self.epoch += 1
                yield from [one_pass for step in batches.of_epoch(self.epoch) for one_pass in step]

        return DataLoader(self.train_dataset, batch_sampler=Epochs(), collate_fn=self.data_collator)

    def get_batch_samples(self, iterator: Any, count: int, device: Any) -> Any:
        passes = [next(iterator) for _ in range(count)]
        return passes, sum(len(one["input_ids"]) for one in passes)

    def compute_loss(self, model: Any, inputs: Any, *_: Any, num_items_in_batch: Any = None, **__: Any) -> Any:
        losses = answer_losses(model, inputs, "separate")
        self.step_losses.append(losses.detach())
        return losses.sum() / num_items_in_batch


@pytest.mark.parametrize(
    ("stage", "rates"),
    [
        (Stage(learning_rate=1e-2, epochs=2, batch_size=5), None),  # 24 examples: passes of 2, 2 and 1, a last step of 4
        (Stage(learning_rate=1e-2, epochs=1.5, batch_size=6, warmup_steps=3), None),
        (Stage(learning_rate=1e-2, epochs=2, batch_size=6, warmup_steps=2, decay=True), None),
        (Stage(learning_rate=1e-2, epochs=1, batch_size=2), lambda name: 0.1 if "up_proj" in name else 1.0),
    ],
    ids=["accumulated", "warmed up, half an epoch", "warmed up and decaying", "two rates"],
)
def test_weights_are_bit_for_bit_those_of_transformers_trainer(
    stage: Stage, rates: Rates | None, base_folder: Path, examples: list[Example], train: Callable[..., None], tmp_path: Path
) -> None:
    published = with_lora(base_folder)
    with quiet_transformers():
        trainer = PublishedTrainer(published, examples, stage, rates, tmp_path / "published")
        trainer.train()
    ours = with_lora(base_folder)
    before = {name: parameter.detach().clone() for name, parameter in trained_parameters(ours).items()}
    seen: list[torch.Tensor] = []

    def losses(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        values = answer_losses(ours, batch, "separate")
        seen.append(values.detach())
        return values

    train(ours, stage, rates=rates, losses=losses)
    assert len(seen) == len(trainer.step_losses)
    assert all(torch.equal(one, other) for one, other in zip(seen, trainer.step_losses, strict=True))
    expected = dict(published.named_parameters())
    for name, parameter in trained_parameters(ours).items():
        assert torch.equal(parameter, expected[name]), name
        assert not torch.equal(parameter, before[name])


class Stopped(Exception):
    """As a kill, for a test within one process."""


@pytest.mark.parametrize("stop", [1, 3, 4, 5, 6, 8, 10], ids=lambda step: f"in step {step}")
def test_a_stage_that_was_stopped_has_the_weights_and_the_history_of_one_that_was_not(
    stop: int, base_folder: Path, train: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 steps an epoch, and a checkpoint every 3: within an epoch, at its end, and at the very last step."""
    stage = Stage(learning_rate=1e-2, epochs=2, batch_size=5)
    whole = with_lora(base_folder)
    train(whole, stage, "whole")
    plain, calls = torch.optim.AdamW.step, [0]

    def stopping(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == stop:
            raise Stopped
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", stopping)
    with pytest.raises(Stopped):
        train(with_lora(base_folder), stage, "stopped")
    history = tmp_path / "stopped" / "loss_history.jsonl"
    assert [json.loads(line)["step"] for line in history.read_text().splitlines()] == list(range(1, stop))
    with history.open("a") as file:
        file.write('{"stage": "sta')  # a line that the kill cut off
    torch.manual_seed(99)
    again = with_lora(base_folder)
    train(again, stage, "stopped")
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), again.parameters(), strict=True))
    assert history.read_bytes() == (tmp_path / "whole" / "loss_history.jsonl").read_bytes()
    assert calls[0] <= 10 + 1 + 3


def test_the_history_has_every_steps_mean_loss_rate_and_gradient(
    base_folder: Path, examples: list[Example], train: Callable[..., None], tmp_path: Path
) -> None:
    model = with_lora(base_folder)
    by_pass: list[torch.Tensor] = []

    def losses(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        values = answer_losses(model, batch, "separate")
        by_pass.append(values.detach())
        return values

    train(model, Stage(learning_rate=1e-2, epochs=2, batch_size=5, warmup_steps=4), losses=losses)
    rows = [json.loads(line) for line in (tmp_path / "stage" / "loss_history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert [row["epoch"] for row in rows] == pytest.approx([step / 5 for step in range(1, 11)])
    assert [row["learning_rate"] for row in rows] == pytest.approx([0, 0.0025, 0.005, 0.0075] + [0.01] * 6)
    assert {row["stage"] for row in rows} == {"stage"}
    assert all(row["gradient_norm"] > 0 for row in rows)
    passes = iter(by_pass)
    for row in rows:
        count = 2 if row["step"] % 5 == 0 else 3  # the last step of an epoch has 4 examples, the others 5
        values = torch.cat([next(passes) for _ in range(count)])
        assert len(values) == (4 if count == 2 else 5)
        assert row["loss"] == pytest.approx(float(values.mean()), rel=1e-6)


def test_snapshots_are_taken_at_shares_of_the_steps(base_folder: Path, train: Callable[..., None]) -> None:
    taken: list[int] = []
    train(with_lora(base_folder), Stage(learning_rate=1e-3, epochs=2, batch_size=5), snapshots=Snapshots([0.5, 0.01, 1.0], taken.append))
    assert taken == [1, 5, 10]
    assert steps_of(Stage(learning_rate=1e-3, epochs=1.5, batch_size=5), 24) == 8
    assert step_at(0.5, 8) == 4


@pytest.mark.parametrize("stop", [None, 4, 7], ids=["not stopped", "stopped before", "stopped after"])
def test_where_memory_runs_out_passes_are_halved_once_and_steps_keep_their_examples(
    stop: int | None,
    base_folder: Path,
    examples: list[Example],
    train: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The 6th step finds less memory than those before it: from there on, no pass may have two examples."""
    stage = Stage(learning_rate=1e-2, epochs=2, batch_size=5)
    plain, calls = torch.optim.AdamW.step, [0]

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == stop:
            raise Stopped
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    sizes: list[int] = []

    def limited(model: Any) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
        def losses(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            steps = len((tmp_path / "stage" / "loss_history.jsonl").read_text().splitlines())
            if steps >= 5 and len(batch["input_ids"]) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            sizes.append(len(batch["input_ids"]))
            return answer_losses(model, batch, "separate")

        return losses

    if stop is not None:
        model = with_lora(base_folder)
        with pytest.raises(Stopped):
            train(model, stage, losses=limited(model))
    model = with_lora(base_folder)
    train(model, stage, losses=limited(model))
    (told,) = [message for message in caplog.messages if "out of memory" in message]
    assert told.endswith("with 2 examples a pass: it goes on with 1 a pass, and as many a step as before.")
    assert set(sizes[-24:]) == {1}  # an epoch has 24 examples
    rows = [json.loads(line) for line in (tmp_path / "stage" / "loss_history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 11))
    monkeypatch.setattr(torch.optim.AdamW, "step", plain)
    if stop is None:
        undisturbed = with_lora(base_folder)
        train(undisturbed, stage, "undisturbed")
        expected = [json.loads(line)["loss"] for line in (tmp_path / "undisturbed" / "loss_history.jsonl").read_text().splitlines()]
        assert [row["loss"] for row in rows[:5]] == expected[:5]
        assert [row["loss"] for row in rows[5:]] == pytest.approx(expected[5:], rel=0.2)  # the same examples, another dropout
    else:
        whole = with_lora(base_folder)
        (tmp_path / "stage").rename(tmp_path / "stopped")
        train(whole, stage, losses=limited(whole))
        assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), model.parameters(), strict=True))


def test_memory_that_does_not_do_for_half_a_pass_either_is_an_error(base_folder: Path, train: Callable[..., None]) -> None:
    def no_room(_: dict[str, torch.Tensor]) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(TrainingError, match="with 1 examples a pass as with 2") as raised:
        train(with_lora(base_folder), Stage(learning_rate=1e-2, epochs=2, batch_size=5), losses=no_room)
    assert "run.max_length" in raised.value.action


def test_a_gradient_that_is_no_number_changes_no_weight(base_folder: Path, train: Callable[..., None]) -> None:
    """The loss is finite, its gradient is not: without a look at it, the last step of a run would save no numbers."""
    model = with_lora(base_folder)
    before = {name: parameter.detach().clone() for name, parameter in trained_parameters(model).items()}

    def losses(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        values = answer_losses(model, batch, "separate")
        return values + (values - values.detach()).abs().sqrt()  # infinitely steep where it is

    with pytest.raises(TrainingError, match=r"The gradient is not a number at step 1, for the records '.*', '"):
        train(model, Stage(learning_rate=1e-2, epochs=1, batch_size=5), losses=losses)
    assert all(torch.equal(parameter, before[name]) for name, parameter in trained_parameters(model).items())
