"""What an answer costs: passes through a model, tokens that it read, seconds.

Counted where it arises, at the models' embeddings, so that no defense keeps books of its own and none can forget a pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Cost:
    """What one reply, or a batch of them, took.

    Args:
        passes: forward passes, of all models together; of a batch, each reply's even share.
        tokens: tokens that went through them, prompt and reply alike, padding included.
        seconds: time on the clock, of a batch likewise shared.
    """

    passes: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0

    def share(self, replies: int) -> Cost:
        """One reply's share of a batch's cost."""
        return Cost(self.passes / replies, self.tokens / replies, self.seconds / replies)


@dataclass
class Count:
    """Passes and tokens so far."""

    passes: int = 0
    tokens: int = 0


@contextmanager
def metered(models: Iterable[Any]) -> Iterator[Count]:
    """Count the passes through models, and the tokens in them, at their input embeddings."""
    count = Count()

    def note(_: Any, inputs: tuple[Tensor, ...]) -> None:
        count.passes += 1
        count.tokens += inputs[0].numel()

    # Twins of one model have embedding modules of their own; one model may be named twice.
    embeddings = {id(module): module for module in (model.get_input_embeddings() for model in models)}
    handles = [module.register_forward_pre_hook(note) for module in embeddings.values()]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()
