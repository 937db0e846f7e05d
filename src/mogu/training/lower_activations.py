"""What enters the first trained decoder layer, computed once for each example and read from a file in every later pass.

The layers below never change while those above are trained, so they hand the same hidden states upward in every epoch. While these are
fed to the first trained layer, the layers below let through whatever they are given. A trial on the model itself decides whether that
gives the losses of the whole model: families differ in what passes between layers, and remote code may do anything. Knows decoder
layers, batches and a function of losses; does not know what is trained above, in which order batches come, or how often.
"""

from __future__ import annotations

import functools
import logging
import random
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import set_seed

from mogu.modeling.architectures import place_in_stack
from mogu.progress import progress_bars
from mogu.training.collator import PADDING, Collator
from mogu.training.examples import AnyExample
from mogu.training.losses import Losses
from mogu.training.training_state import ACTIVATIONS_FILE, random_states_kept

MOST_OF_FREE_SPACE = 0.5
"""The share of the free space that the file may take: checkpoints and results have yet to be written."""

logger = logging.getLogger(__name__)


class _NotSkipped(Exception):
    """The layers below the first trained one have to compute in every pass; the text says why, and ``level`` how much that matters."""

    def __init__(self, reason: str, level: int = logging.INFO) -> None:
        super().__init__(reason)
        self.level = level


class _EndOfPass(Exception):
    """A pass has come to the first trained layer, and what the model would do from there on is not needed."""

    def __init__(self, hidden_states: Tensor) -> None:
        super().__init__()
        self.hidden_states = hidden_states


@contextmanager
def skipped_lower_layers(
    model: nn.Module,
    trained: Iterable[str],
    losses: Losses,
    examples: Sequence[AnyExample],
    collator: Collator,
    in_a_pass: int,
    folder: Path,
    *,
    title: str,
) -> Iterator[LowerActivations | None]:
    """Skip the decoder layers below the first trained one until the block ends.

    Args:
        model: a causal language model or a wrapper of one (PEFT's or ours), in training mode.
        trained: names of its trained parameters.
        losses: a batch to the loss of each of its examples, ``[examples]``, by way of the model.
        examples: the data.
        collator: makes batches of it.
        in_a_pass: examples of a pass.
        folder: where the file is kept; the file is deleted when the block ends.
        title: of the training, for the progress bar and the log.

    Yields:
        What each pass has to be fed; ``None``, with the reason in the log, where every layer has to compute in every pass.
    """
    path = folder / ACTIVATIONS_FILE
    try:
        with ExitStack() as skipping:
            lower = None
            try:
                with random_states_kept():
                    lower = LowerActivations(_Layers.of(model, trained), losses, examples, collator, in_a_pass)
                    lower.try_out()
                    lower.compute(path, title)
                skipping.enter_context(lower.skipping())
            except _NotSkipped as reason:
                lower = None
                logger.log(reason.level, "%s: every layer computes in every pass: %s", title, reason)
            yield lower
    finally:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Layers:
    """The decoder layers below the first trained one, and that one."""

    lower: list[nn.Module]
    first: nn.Module

    @classmethod
    def of(cls, model: nn.Module, trained: Iterable[str]) -> _Layers:
        places = [place_in_stack(name) for name in trained]
        layers = {place for place in places if place is not None}
        stacks = {stack for stack, _ in layers}
        if None in places or len(stacks) != 1:
            raise _NotSkipped("not all that is trained lies in one stack of decoder layers")
        first = min(index for _, index in layers)
        if first == 0:
            raise _NotSkipped("nothing lies below the first trained one", logging.DEBUG)
        modules = model.get_submodule(stacks.pop())
        return cls([modules.get_submodule(str(index)) for index in range(first)], modules.get_submodule(str(first)))


class LowerActivations:
    """The hidden states that enter the first trained layer, row behind row in a file.

    Args:
        layers: the layers below, and the first trained one.
        losses: the losses of a batch.
        examples: the data.
        collator: makes batches of it.
        in_a_pass: examples of a pass.
    """

    def __init__(self, layers: _Layers, losses: Losses, examples: Sequence[AnyExample], collator: Collator, in_a_pass: int) -> None:
        self._layers, self._losses, self._examples, self._collator = layers, losses, examples, collator
        lengths = array("q", map(len, examples))
        order = array("q", sorted(range(len(examples)), key=lengths.__getitem__))  # neighbors of one length need no padding
        self._passes = [order[start : start + in_a_pass] for start in range(0, len(order), in_a_pass)]
        self._starts, self._tokens = array("q", lengths), 0
        for index in order:
            self._starts[index] = self._tokens
            self._tokens += sum(collator.row_lengths(examples[index]))
        self._states = self._fed = torch.empty(0)
        self._more: dict[nn.Module, int] = {}

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """Until the block ends, the layers below do nothing, and the first trained one reads what it was fed last."""
        compute = self._layers.first.forward

        def first(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            return compute(self._fed.to(hidden_states.device), *args, **kwargs)

        lower = {layer: functools.partial(_through, more=self._more.get(layer)) for layer in self._layers.lower}
        with _computing_by({**lower, self._layers.first: first}):
            yield

    def feed(self, indices: Sequence[int], batch: dict[str, Tensor]) -> None:
        """Have the next pass, and the backward pass behind it, begin with the hidden states of a batch.

        Args:
            indices: its examples.
            batch: as the collator makes it.
        """
        rows, tokens = batch["input_ids"].shape
        self._fed = self._states.new_zeros(rows, tokens, self._states.shape[-1])
        lengths = (batch["segments"] != PADDING).sum(1).view(len(indices), -1).tolist()  # each example has as many rows
        unfed = iter(self._fed)
        for index, of_example in zip(indices, lengths, strict=True):
            start = self._starts[index]
            for length in of_example:
                next(unfed)[:length] = self._states[start : start + length]
                start += length

    def try_out(self) -> None:
        """Make the shortest pass with the layers below and without them.

        Raises:
            _NotSkipped: what they compute is random, or reaches the layers above in another way as well.
        """
        try:
            self._try_out(self._batch(self._passes[0]))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:  # modelling code may do anything
            raise _NotSkipped(f"the model cannot do without those below the first trained one ({error})") from error

    def _try_out(self, batch: dict[str, Tensor]) -> None:
        hooks = [layer.register_forward_hook(self._note_output) for layer in self._layers.lower]
        try:
            entering = self._seeded(self._entering, batch)
            drawn = _draws(entering.device)
        finally:
            for hook in hooks:
                hook.remove()
        set_seed(0)
        if drawn != _draws(entering.device):
            raise _NotSkipped("those below the first trained one draw random numbers while training, as for dropout")
        if entering.shape[:-1] != batch["input_ids"].shape:
            raise _NotSkipped("those below the first trained one hand more than one vector a token upward")
        expected = self._seeded(self._losses, batch)
        # Another text in between: what a module may have kept of this one does not help it in the pass to come.
        self._seeded(self._losses, batch | {"input_ids": batch["input_ids"].roll(1, dims=1)})
        real = (batch["segments"] != PADDING).unsqueeze(-1).to(entering.device)
        self._fed = torch.where(real, entering, 0)
        with self.skipping():
            found = self._seeded(self._losses, batch)
        tolerance = 1e-5 if entering.dtype.itemsize >= 4 else 1e-2
        if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance):
            raise _NotSkipped("without those below the first trained one the losses differ")

    def _note_output(self, layer: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, tuple):  # Falcon's layers hand their attention weights upward, which the model does not look at
            self._more[layer] = len(output) - 1

    def compute(self, path: Path, title: str) -> None:
        """Write the hidden states of all examples into a file, and map the file into memory.

        Raises:
            _NotSkipped: the disk has no room for it, or the file system refuses.
        """
        tokens, width = self._tokens, self._fed.shape[-1]
        dtype, needed = self._fed.dtype, tokens * width * self._fed.dtype.itemsize
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(path.parent).free
            if needed > MOST_OF_FREE_SPACE * free:
                raise _NotSkipped(f"{path} would take {_mib(needed)} of the {_mib(free)} that are free", logging.WARNING)
            with path.open("wb") as file, progress_bars() as bars:
                bar = bars.add_task(f"{title}, lower layers", total=len(self._examples), note="")
                for indices in self._passes:
                    batch = self._batch(indices)
                    states = self._entering(batch).cpu()
                    for row, real in zip(states, (batch["segments"] != PADDING).sum(1).tolist(), strict=True):
                        file.write(row[:real].contiguous().view(torch.uint8).numpy().data)
                    bars.advance(bar, len(indices))
        except OSError as error:
            raise _NotSkipped(f"{path} could not be written: {error.strerror or error}", logging.WARNING) from error
        self._states = torch.from_file(str(path), shared=False, size=tokens * width, dtype=dtype).view(tokens, width)

    def _batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return self._collator([self._examples[index] for index in indices])

    @staticmethod
    @torch.no_grad()
    def _seeded(compute: Losses, batch: dict[str, Tensor]) -> Tensor:
        set_seed(0)  # so that all passes of a trial have the same dropout in the layers above
        return compute(batch)

    @torch.no_grad()
    def _entering(self, batch: dict[str, Tensor]) -> Tensor:
        """What enters the first trained layer, ``[rows, tokens, width]``."""

        def end(hidden_states: Tensor, *_: Any, **__: Any) -> None:
            raise _EndOfPass(hidden_states)

        try:
            with _computing_by({self._layers.first: end}):
                self._losses(batch)
        except _EndOfPass as end_of_pass:
            return end_of_pass.hidden_states
        raise _NotSkipped("the first trained one is no part of a pass")


@contextmanager
def _computing_by(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules compute by other functions than their own ``forward``, in their places and with their hooks."""
    own = {module: vars(module)["forward"] for module in forwards if "forward" in vars(module)}  # accelerate puts one there
    for module, forward in forwards.items():
        vars(module)["forward"] = forward
    try:
        yield
    finally:
        for module in forwards:
            del vars(module)["forward"]
            vars(module).update({"forward": own[module]} if module in own else {})


def _through(hidden_states: Tensor, *_: Any, more: int | None, **__: Any) -> Any:
    return hidden_states if more is None else (hidden_states, *[None] * more)


def _draws(device: torch.device) -> list[float]:
    """The next number of each random generator that a pass may have drawn from."""
    return [random.random(), float(torch.rand(())), float(torch.rand((), device=device))]


def _mib(count: float) -> str:
    return f"{count / 2**20:.0f} MiB"
