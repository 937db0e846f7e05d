"""What is tuned of a model, a LoRA or all of it, and how it is trained, reset and saved.

Knows models, PEFT and the training loop; does not know where examples come from or what is measured.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from mogu.errors import ConfigError, ModelFileError, MoguError
from mogu.files.atomic import atomic_file
from mogu.finetuning.recipe import TuneSection
from mogu.hub.adapters import merged
from mogu.training.examples import AnyExample
from mogu.training.losses import answer_losses
from mogu.training.recipe import RunSection
from mogu.training.stages import gradient_checkpointing
from mogu.training.trainer import Rates, WarmUp, train_stage, trained_parameters
from mogu.transformers_compat import disable_checkpointing

STATE_FILE = "tuned.safetensors"
ALL_LINEAR = "all-linear"


class Tuner:
    """Tunes a base model, as often as needed, each time from where it was.

    Args:
        base: the model, plain; a LoRA is put into it, or all its parameters become trainable, in float32.
        tune: how it learns.
        seed: of the LoRA's initial weights.

    Attributes:
        start: the tuned parameters before any tuning, by name, on the CPU.

    Raises:
        ConfigError: the model has no modules of the names that the LoRA is for.
    """

    def __init__(self, base: PreTrainedModel, tune: TuneSection, seed: int) -> None:
        self.base, self.tune, self.dtype = base, tune, base.dtype
        self._required_grad = {name for name, parameter in base.named_parameters() if parameter.requires_grad}
        self.model: Any = base
        if tune.method == "full":
            _cast(base, torch.float32)  # bfloat16 would round small steps away
            base.requires_grad_(True)
        else:
            self.model = with_lora(base, tune, seed)
        self.start = {name: parameter.detach().cpu().clone() for name, parameter in self.trained().items()}

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are tuned, by their names in the model."""
        return trained_parameters(self.model)

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Set the tuned parameters to saved values."""
        for name, parameter in self.trained().items():
            parameter.copy_(state[name])

    def reset(self) -> None:
        """Set the tuned parameters to what they were before any tuning."""
        self.load_state(self.start)

    def write_state(self, folder: Path) -> None:
        """Write the tuned parameters into a folder.

        Raises:
            MoguError: the file system refuses.
        """
        with disk_errors(folder / STATE_FILE), atomic_file(folder / STATE_FILE) as scratch:
            save_file({name: parameter.detach().cpu().contiguous() for name, parameter in self.trained().items()}, scratch)

    def read_state(self, folder: Path) -> None:
        """Load what :meth:`write_state` wrote."""
        self.load_state(load_file(folder / STATE_FILE))

    def train(
        self,
        examples: Sequence[AnyExample],
        run: RunSection,
        folder: Path,
        *,
        title: str,
        pad_token_id: int,
        rates: Rates | None = None,
        warm_up: WarmUp | None = None,
    ) -> None:
        """Tune from the model's state, or from the last checkpoint in ``folder``; see :func:`~mogu.training.trainer.train_stage`."""
        set_seed(run.seed)
        losses = functools.partial(answer_losses, self.model, layout="separate")
        gradient_checkpointing(self.base, run)
        try:
            train_stage(
                self.model,
                losses,
                examples,
                self.tune,
                run,
                folder,
                title=title,
                layout="separate",
                pad_token_id=pad_token_id,
                rates=rates,
                warm_up=warm_up,
            )
        finally:
            self.model.eval()
            if run.gradient_checkpointing:
                disable_checkpointing(self.base)

    def rates_for(self, robust: Collection[str], slow_factor: float) -> Rates:
        """Make ML-LR's rates: the whole learning rate for the robust modules, a share of it for all other parameters.

        Args:
            robust: full names of the robust modules.
            slow_factor: the share for the others; 0 leaves them as they are.

        Raises:
            ModelFileError: as for :meth:`warm_up_of`.
        """
        is_robust = self._belongs_to(robust)
        return lambda name: 1.0 if is_robust(name) else slow_factor

    def warm_up_of(self, robust: Collection[str], share: float) -> WarmUp:
        """Make SWAT's warm-up: at first the robust modules are trained alone, then all parameters.

        Args:
            robust: full names of the robust modules.
            share: of the optimizer steps.

        Raises:
            ModelFileError: one of the modules is not in the model, or none of them is tuned.
        """
        return WarmUp(share, self._belongs_to(robust))

    def _belongs_to(self, robust: Collection[str]) -> Callable[[str], bool]:
        marks = [f".{name}." for name in robust]
        names = {f".{name}" for name in self.trained()}
        missing = [name for name in robust if not _has_module(self.base, name)]
        if missing or not any(mark in name for mark in marks for name in names):
            raise ModelFileError(
                f"The robust modules name {missing[0]!r}, which the model does not have"
                if missing
                else f"None of the {len(robust)} robust modules is tuned",
                expected="modules of this model, some of which are tuned",
                action="run `mogu robustness` on this model, or tune those modules (tune.modules)",
            )
        return lambda name: any(mark in f".{name}" for mark in marks)

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, base_model: str) -> None:
        """Save into an existing folder: a PEFT adapter, or a whole model with its tokenizer, in the type it was loaded in."""
        if self.tune.method == "lora":
            for config in self.model.peft_config.values():
                config.base_model_name_or_path = base_model
            self.model.save_pretrained(str(folder))
            return
        _cast(self.base, self.dtype)
        self.base.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def merged(self) -> PreTrainedModel:
        """The tuned model on its own, not quantized, in the type it was loaded in: a copy, which takes memory of its own."""
        whole = copy.deepcopy(self.model)
        base: PreTrainedModel = merged(whole) if self.tune.method == "lora" else whole
        base.requires_grad_(False)
        _cast(base, self.dtype)
        return base

    def close(self) -> None:
        """Release the model as it was."""
        self.reset()
        if self.tune.method == "lora":
            self.model.unload()
        else:
            _cast(self.base, self.dtype)
        self._forget_gradients()

    def _forget_gradients(self) -> None:
        for name, parameter in self.base.named_parameters():
            parameter.requires_grad_(name in self._required_grad)
            parameter.grad = None


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn safetensors' own error for a full disk into ours.

    Raises:
        MoguError: the file system refuses.
    """
    try:
        yield
    except SafetensorError as error:
        raise MoguError(
            f"{target} could not be written: {error}",
            expected="a place with enough space that you may write to",
            action="free space, then run again with --resume; or set run.output or run.work to another place",
        ) from error


def with_lora(base: PreTrainedModel, tune: TuneSection, seed: int) -> Any:
    """Put a new LoRA into the model, as PEFT's ``PeftModel``.

    Raises:
        ConfigError: the model has no modules of the names that the LoRA is for.
    """
    config = LoraConfig(
        r=tune.rank,
        lora_alpha=tune.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=tune.dropout,
        target_modules=tune.modules or ALL_LINEAR,
        task_type="CAUSAL_LM",
    )
    set_seed(seed)
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        raise ConfigError(
            f"A LoRA cannot be put where tune.modules says: {str(error).partition(chr(10))[0]}",
            expected="names, or ends of names, of linear layers of the model",
            action="correct tune.modules, or leave it out for every linear layer",
        ) from error


def _cast(base: nn.Module, dtype: torch.dtype) -> None:
    base.to(dtype)


def _has_module(base: nn.Module, name: str) -> bool:
    # PEFT wraps the modules of the base in place, so they keep their names.
    try:
        base.get_submodule(name)
    except AttributeError:
        return False
    return True
