"""What an attacker who has the weights computes with: how far a prompt is from an answer that complies.

A surface reads what stands before the optimized tokens once, and then evaluates many continuations at a time, differentiable with respect
to their embeddings. Knows the open base model; knows nothing of defenses, nor of how an attack looks for better prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mogu.attacks.passes import CountedModel, Meter, Pass
from mogu.defenses.registry import REFUSAL
from mogu.defenses.target_model import TargetModel
from mogu.inference.replies import decode_reply, end_tokens

ROWS = 64
"""Continuations that are evaluated in one pass, at most, where no gradient is asked for."""


@dataclass(frozen=True)
class Evaluation:
    """What continuations are worth to an attacker.

    Args:
        loss: mean cross-entropy of the target tokens, ``[batch]``, in nats per token.
        signal: what the defense itself sees in each continuation, to be pushed down, ``[batch]``; ``None`` where it looks at nothing.
        weight: ``λ``, how many nats per token a signal of 1 is worth.
    """

    loss: Tensor
    signal: Tensor | None = None
    weight: float = 0.0

    @property
    def objective(self) -> Tensor:
        """``loss + λ·signal``, ``[batch]``: what an attack minimizes."""
        return self.loss if self.signal is None else self.loss + self.weight * self.signal


class Surface:
    """The plain base model: all that an attacker knows who does not know the defense. Other surfaces are made from it.

    Weights stay frozen; only embeddings are differentiated.

    Args:
        target: the model under attack.
        meter: what counts; a new one by default.
    """

    kind = "none"
    """Name of the defense that it computes."""
    knows_defense = False
    """Whether it computes a defense rather than the open base model."""
    signal_weight = 0.0
    """``λ`` of :class:`Evaluation`."""

    def __init__(self, target: TargetModel, meter: Meter | None = None, *, model: Any = None) -> None:
        self.target = target
        self.meter = Meter() if meter is None else meter
        self.plain = CountedModel(target.base if model is None else model, self.meter)
        self.device: torch.device = target.base.device

    @property
    def table(self) -> Tensor:
        """The embedding of every token, ``[vocabulary, d]``, scaled as the model scales it."""
        embeddings: Any = self.target.base.get_input_embeddings()
        return self.embed(range(len(embeddings.weight)))

    @torch.no_grad()
    def embed(self, ids: Sequence[int] | Sequence[Sequence[int]] | Tensor) -> Tensor:
        """The embeddings of token ids ``[..]``, ``[.., d]``."""
        indices = torch.as_tensor(ids if isinstance(ids, Tensor) else list(ids), dtype=torch.long, device=self.device)
        embedded: Tensor = self.target.base.get_input_embeddings()(indices)
        return embedded

    def read(self, prefix: Sequence[int]) -> None:
        """Read the token ids that stand before everything that is evaluated from now on."""
        self.plain.read(self.embed(prefix))

    def evaluate(self, rest: Tensor, target_ids: Sequence[int]) -> Evaluation:
        """Evaluate continuations of the prefix, in one pass of each model that answers.

        Args:
            rest: embeddings of all that stands between the prefix and the answer, ``[batch, r, d]``.
            target_ids: the beginning of the answer that is wanted, ``t`` token ids.
        """
        self.meter.queries += len(rest)
        return self._evaluate(rest, self.embed(target_ids).expand(len(rest), -1, -1), self._ids(target_ids))

    @torch.no_grad()
    def evaluate_ids(self, rest: Sequence[Sequence[int]], target_ids: Sequence[int]) -> Evaluation:
        """Evaluate continuations that are given as token ids, ``batch`` lists of ``r``, :data:`ROWS` at a time and without a graph."""
        parts = [self.evaluate(self.embed(rest[start : start + ROWS]), target_ids) for start in range(0, len(rest), ROWS)]
        signals = [part.signal for part in parts if part.signal is not None]
        return Evaluation(torch.cat([part.loss for part in parts]), torch.cat(signals) if signals else None, self.signal_weight)

    @torch.no_grad()
    def reply(self, embeds: Tensor, max_new_tokens: int) -> str:
        """The greedy reply of model and defense to a whole prompt that is given as embeddings, ``[r, d]``.

        No server takes embeddings. Settings of the model's own for decoding, such as a penalty on repetition, are left out.
        """
        if self._refuses(embeds):
            return REFUSAL
        ends = end_tokens(self.target.base, self.target.tokenizer)
        answer: list[int] = []
        cache, routed_before = None, False
        while len(answer) < max_new_tokens:
            routed = self._is_routed(answer)
            fresh = not answer or (routed != routed_before and self._reads_again)
            step = torch.cat([embeds.to(self.device), self.embed(answer).to(embeds.dtype)]) if fresh else self.embed(answer[-1:])
            output = self._step(step.unsqueeze(0), None if fresh else cache, routed)
            cache, routed_before = output.cache, routed
            token = int(output.logits[0, -1].argmax())
            if token in ends:
                break
            answer.append(token)
        return decode_reply(self.target.tokenizer, answer).strip()

    # What other surfaces do otherwise.

    _reads_again = False

    def _evaluate(self, rest: Tensor, targets: Tensor, target_ids: Tensor) -> Evaluation:
        loss, _ = self._plain_loss(rest, targets, target_ids)
        return Evaluation(loss)

    def _refuses(self, embeds: Tensor) -> bool:
        return False

    def _is_routed(self, answer: list[int]) -> bool:
        return False

    def _step(self, embeds: Tensor, cache: Any, routed: bool) -> Pass:
        return self.plain(embeds, keep=1, cache=cache)

    def _plain_loss(self, rest: Tensor, targets: Tensor, target_ids: Tensor, *, states: bool = False) -> tuple[Tensor, Pass]:
        output = self.plain.behind_prefix(torch.cat([rest, targets[:, :-1].to(rest.dtype)], 1), keep=len(target_ids), states=states)
        return nats(output.logits, target_ids).mean(1), output

    def _ids(self, ids: Sequence[int]) -> Tensor:
        return torch.as_tensor(list(ids), dtype=torch.long, device=self.device)


def nats(logits: Tensor, target_ids: Tensor) -> Tensor:
    """Cross-entropy of target tokens ``[t]`` at logits ``[batch, t, vocabulary]``: ``[batch, t]``."""
    targets = target_ids.expand(len(logits), -1).to(logits.device)
    # Flat, since classes in the middle make PyTorch several times slower.
    losses = F.cross_entropy(precise(logits).flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(targets.shape)


def precise(values: Tensor) -> Tensor:
    """Half precision as float32; anything better as it is."""
    return values if values.dtype == torch.float64 else values.float()
