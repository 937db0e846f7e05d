"""The cost of a reply: forward passes, tokens that went through them, and seconds.

Passes are counted at the models' input embeddings, so a defense neither has to count its own nor can forget one.
Knows embeddings; knows nothing of defenses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Cost:
    """The cost of one reply, or of a batch of replies.

    Args:
        passes: forward passes, summed over all models; for a reply in a batch, an even share of the batch's passes.
        tokens: tokens that went through them: prompt, reply and padding.
        seconds: wall-clock time, shared in the same way.
    """

    passes: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0

    def share(self, replies: int) -> Cost:
        """Return the share of one reply in the cost of a batch of ``replies``."""
        return Cost(self.passes / replies, self.tokens / replies, self.seconds / replies)


@dataclass
class PassCount:
    """Forward passes and tokens counted so far."""

    passes: int = 0
    tokens: int = 0


@contextmanager
def count_passes(models: Iterable[Any]) -> Iterator[PassCount]:
    """Count forward passes through ``models``, and the tokens in them, while the context is open."""
    count = PassCount()

    def add_pass(_: Any, inputs: tuple[Tensor, ...]) -> None:
        count.passes += 1
        count.tokens += inputs[0].numel()

    # Models that share weights have embedding modules of their own; the same model may be listed twice.
    embeddings = {id(module): module for module in (model.get_input_embeddings() for model in models)}
    handles = [module.register_forward_pre_hook(add_pass) for module in embeddings.values()]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()
