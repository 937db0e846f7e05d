"""The surfaces of the defenses that an attacker with their weights can compute, and which of them a defense has.

Knows how each of these defenses makes a reply; knows nothing of how an attack looks for better prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mogu.analysis.detector import Detector
from mogu.attacks.passes import CountedModel, Meter, Pass, flops_per_token
from mogu.attacks.surface import Evaluation, Surface, nats, precise
from mogu.defenses.registry import Defense
from mogu.defenses.target_model import TargetModel
from mogu.inference.prompts import encode_marker
from mogu.modeling.gated.gate import ENDS, attended
from mogu.modeling.gated.model import GatedModel
from mogu.modeling.routing import RoutingController
from mogu.modeling.routing_schedule import RoutingSchedule

__all__ = ["Evaluation", "Meter", "Surface", "flops_per_token", "surface_for"]

SCORE_MARGIN = 0.05
"""How far below its threshold the malicious score is pushed."""

LOGIT_MARGIN = 0.5
"""How far below its threshold a detector's logit is pushed."""


class FineTunedSurface(Surface):
    """The base model with the LoRA of plain fine-tuning: it answers all of the reply, and looks at nothing."""

    kind, knows_defense = "sft", True

    def __init__(self, target: TargetModel, meter: Meter | None = None) -> None:
        super().__init__(target, meter, model=target.with_adapter("sft").get_base_model())


class DetectorSurface(Surface):
    """The base model behind a linear detector; the signal is ``relu(z − logit(threshold) + margin)``, ``z`` being the detector's logit.

    Args:
        target: the model under attack, with the trained part ``detector.json``.
        meter: what counts.
        threshold: of the defense.
    """

    kind, knows_defense, signal_weight = "detect_inp", True, 1.0

    def __init__(self, target: TargetModel, meter: Meter | None = None, *, threshold: float = 0.5) -> None:
        super().__init__(target, meter)
        detector = Detector.load(target.trained_part("detector.json"))
        self._layer, self._bias = detector.layer, detector.head.bias
        self._weights = torch.tensor(detector.head.weights, dtype=torch.float64, device=self.device)
        self._threshold = threshold

    def _evaluate(self, rest: Tensor, targets: Tensor, target_ids: Tensor) -> Evaluation:
        loss, output = self._plain_loss(rest, targets, target_ids, states=True)
        above = self._detect(output, rest.shape[1] - 1) - _logit(self._threshold)
        return Evaluation(loss, F.relu(above + LOGIT_MARGIN).to(loss.dtype), self.signal_weight)

    def _refuses(self, embeds: Tensor) -> bool:
        output = self.plain(embeds.unsqueeze(0), keep=1, states=True)
        return bool(self._detect(output, -1)[0].sigmoid() >= self._threshold)

    def _detect(self, output: Pass, position: int) -> Tensor:
        logits: Tensor = output.states[self._layer][:, position].double() @ self._weights + self._bias
        return logits


class _WithRouters(Surface):
    """A surface that makes routed passes as well.

    Args:
        target: the hardened model under attack.
        meter: what counts.
        dial: the logit shift to route at; ``None`` is the model's.
    """

    knows_defense = True

    def __init__(self, target: TargetModel, meter: Meter | None = None, *, dial: float | None = None) -> None:
        super().__init__(target, meter)
        self.mogu = target.require_mogu(self.kind)
        self.dial = self.mogu.dial if dial is None else dial
        self.routed = CountedModel(self.mogu.base_model, self.meter)

    def read(self, prefix: Sequence[int]) -> None:
        """Read the prefix in either mode."""
        super().read(prefix)
        with self._routing():
            self.routed.read(self.embed(prefix))

    def _routing(self) -> AbstractContextManager[RoutingController]:
        return self.mogu.routing("on", dial=self.dial)

    def _unwill_share(self, controller: RoutingController) -> Tensor:
        """``α/(α+β)`` of the last routed pass, averaged over layers, with its graph: ``[batch, tokens]``."""
        weights = {name: precise(weight) for name, weight in controller.routing_weights(self.device).items()}
        return (weights["unwill"] / (weights["unwill"] + weights["glad"])).mean(0)


class RoutedSurface(_WithRouters):
    """MoGU as it is served: the first ``m`` target tokens from routed logits, the others from the plain base model.

    The signal is the malicious score of :mod:`mogu.modeling.scoring`, averaged over all tokens that the routed pass reads behind the
    prefix, with its graph.

    Args:
        target: the hardened model under attack.
        meter: what counts.
        schedule: which tokens of an answer are routed, at least one.
        handoff: how the base model takes over.
        dial: the logit shift to route at; ``None`` is the model's.
    """

    kind, signal_weight = "mogu", 1.0

    def __init__(
        self, target: TargetModel, meter: Meter | None = None, *, schedule: RoutingSchedule, handoff: str, dial: float | None = None
    ) -> None:
        super().__init__(target, meter, dial=dial)
        self.schedule = schedule
        self._reads_again = handoff == "recompute"

    def _evaluate(self, rest: Tensor, targets: Tensor, target_ids: Tensor) -> Evaluation:
        tokens, count = len(target_ids), self.schedule.routed_tokens
        routed = tokens if count == "all" else min(count, tokens)
        targets = targets.to(rest.dtype)
        with self._routing() as controller:
            output = self.routed.behind_prefix(torch.cat([rest, targets[:, : routed - 1]], 1), keep=routed)
            signal = self._unwill_share(controller).mean(-1)
        losses = [nats(output.logits, target_ids[:routed])]
        if routed < tokens:
            if self._reads_again:
                plain = self.plain.behind_prefix(torch.cat([rest, targets[:, :-1]], 1), keep=tokens - routed)
            else:
                plain = self.plain(targets[:, routed - 1 : -1], keep=tokens - routed, cache=output.cache)
            losses.append(nats(plain.logits, target_ids[routed:]))
        return Evaluation(torch.cat(losses, 1).mean(1), signal, self.signal_weight)

    def _is_routed(self, answer: list[int]) -> bool:
        return self.schedule.routed(torch.tensor([answer], dtype=torch.long))[0]

    def _step(self, embeds: Tensor, cache: Any, routed: bool) -> Pass:
        if not routed:
            return self.plain(embeds, keep=1, cache=cache)
        with self._routing():
            return self.routed(embeds, keep=1, cache=cache)


class ScoreSurface(_WithRouters):
    """The base model behind MoGU's routers as a detector; the signal is ``relu(score − threshold + margin)``.

    Args:
        target: the hardened model under attack.
        meter: what counts.
        threshold: of the defense.
    """

    # Scores lie within half a unit of the threshold: a tenth of it is to be worth a nat per token, or no attack would ever mind it.
    kind, signal_weight = "mogu_score", 10.0

    def __init__(self, target: TargetModel, meter: Meter | None = None, *, threshold: float = 0.5) -> None:
        super().__init__(target, meter)
        self._threshold = threshold

    def _evaluate(self, rest: Tensor, targets: Tensor, target_ids: Tensor) -> Evaluation:
        with self._routing() as controller:
            self.routed.behind_prefix(rest, keep=1)
            score = self._unwill_share(controller)[:, -1]
        loss, _ = self._plain_loss(rest, targets, target_ids)
        return Evaluation(loss, F.relu(score - self._threshold + SCORE_MARGIN), self.signal_weight)

    def _refuses(self, embeds: Tensor) -> bool:
        with self._routing() as controller:
            self.routed(embeds.unsqueeze(0), keep=1)
            return bool(self._unwill_share(controller)[0, -1] >= self._threshold)


class GatedSurface(Surface):
    """A gated model: the base model, unless the gate flags the prompt. The signal is ``relu(z − logit(threshold) + margin)``.

    ``z`` is the gate's logit, from the hidden states of all of the user's tokens, those of the prefix among them; the threshold is the
    lower one where a careful responder answers in between.

    Args:
        target: the gated model under attack.
        meter: what counts.
        dial: added to the gate's logit; ``None`` is the model's.
    """

    kind, knows_defense, signal_weight = "mogu", True, 1.0

    def __init__(self, target: TargetModel, meter: Meter | None = None, *, dial: float | None = None) -> None:
        super().__init__(target, meter)
        model = target.require_mogu(self.kind)
        assert isinstance(model, GatedModel)
        assert model.gate is not None
        config = model.gate_config
        self._gate, self._marks = model.gate, model.marks
        self._dial = model.dial if dial is None else dial
        self._threshold = _logit(config.refuse if config.careful is None else config.careful)
        self._said = torch.empty(0)
        self._prefix = 0

    @torch.no_grad()
    def read(self, prefix: Sequence[int]) -> None:
        """Read the prefix, and what the gate hears of the user's tokens in it."""
        super().read(prefix)
        # With a token more and the mark that ends a turn behind it, the turn that begins in the prefix is found as well.
        spans = self._marks.spans([*prefix, 0, *self._marks.after]).user
        states = self.plain(self.embed(prefix).unsqueeze(0), keep=1, states=True).states
        user = [index for start, stop in spans for index in range(start, min(stop, len(prefix)))]
        self._prefix = len(prefix)
        self._said = self._tokens({tap: states[tap + 1][:, user] for tap in self._gate.taps})

    def _evaluate(self, rest: Tensor, targets: Tensor, target_ids: Tensor) -> Evaluation:
        loss, output = self._plain_loss(rest, targets, target_ids, states=True)
        above = self._hear({tap: output.states[tap + 1][:, : rest.shape[1]] for tap in self._gate.taps}) - self._threshold
        return Evaluation(loss, F.relu(above + LOGIT_MARGIN).to(loss.dtype), self.signal_weight)

    def _refuses(self, embeds: Tensor) -> bool:
        output = self.plain(embeds.unsqueeze(0), keep=1, states=True)
        states = {tap: output.states[tap + 1][:, self._prefix :] for tap in self._gate.taps}
        return bool(self._hear(states)[0] >= self._threshold)

    def _hear(self, states: Mapping[int, Tensor]) -> Tensor:
        """``z`` from the states of what stands between the prefix and the answer, ``[batch, r, d]`` a tap."""
        users = {tap: hidden[:, : hidden.shape[1] - len(self._marks.after)] for tap, hidden in states.items()}
        tokens = self._tokens(users)
        tokens = torch.cat([self._said.expand(len(tokens), -1, -1), tokens], dim=1)
        logits = (
            attended(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)).sum(1) + self._gate.bias + self._dial
        )
        for tap, hidden in states.items():
            vectors = self._gate.vectors[tap].to(hidden.device)
            logits = logits + hidden[:, -1].float() @ vectors[0] + users[tap][:, -1].float() @ vectors[1]
        return logits

    def _tokens(self, states: Mapping[int, Tensor]) -> Tensor:
        """What each token of the user's says to the heads, ``[batch, tokens, 2·heads]``."""
        said = [hidden.float() @ self._gate.vectors[tap][ENDS:].to(hidden.device).t() for tap, hidden in states.items()]
        return torch.stack(said).sum(0)


def surface_for(defense: Defense, *, aware: bool, meter: Meter | None = None) -> Surface:
    """What an attacker of a defense computes with.

    Args:
        defense: the defense under attack.
        aware: whether the attacker knows it and has its weights. A defense that has no surface of its own, such as one that changes the
            prompt's text, has the base model's even so; its surface then has ``knows_defense = False``.
        meter: what counts; a new one by default.

    Raises:
        MoguError: a trained part of the defense is missing or broken.
    """
    target, options = defense.target, defense.options
    if aware and defense.name == "sft":
        return FineTunedSurface(target, meter)
    if aware and defense.name == "detect_inp" and options["classifier"] is None:
        return DetectorSurface(target, meter, threshold=options["threshold"])
    if aware and defense.name == "mogu_score":
        return ScoreSurface(target, meter, threshold=options["threshold"])
    if aware and defense.name == "mogu":
        config = target.require_mogu().mogu_config
        if config.gate is not None:
            return GatedSurface(target, meter, dial=options["dial"])
        chosen = {name: getattr(config, name) if value is None else value for name, value in options.items()}
        marker = encode_marker(target.tokenizer, chosen["answer_marker"]) if chosen["answer_marker"] else ()
        schedule = RoutingSchedule(chosen["routed_tokens"], marker)
        if schedule.routes_anything:
            return RoutedSurface(target, meter, schedule=schedule, handoff=chosen["handoff"], dial=chosen["dial"])
    return Surface(target, meter)


def _logit(probability: float) -> float:
    clamped = min(max(probability, 1e-9), 1 - 1e-9)  # at 0 everything is refused and at 1 nothing: far enough to be so
    return math.log(clamped / (1 - clamped))
