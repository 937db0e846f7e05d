"""Why a model scored a prompt as it did: what each token added at each layer that was read.

Of a gated model the numbers add up to the gate's logit. Of a routed one they are the routing weights, whose mean over the layers at the
last token is the score. Knows models and prompts; knows nothing of how numbers are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mogu.inference.prompts import Prompt, encode_prompt
from mogu.inference.turns import PromptSpans, find_turn_marks
from mogu.modeling.gated.contributions import ContributionReading
from mogu.modeling.gated.gate import AllRead, Places
from mogu.modeling.gated.model import GatedModel
from mogu.modeling.model import MoguModel
from mogu.modeling.scoring import malicious_score

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Explanation:
    """What was read of one prompt, by layer and token.

    Args:
        kind: ``"gate"``: values add up to a logit; ``"routers"``: values are shares.
        tokens: the text of each token that is shown: the user's, and the last one before the answer, which is the template's.
        user: which of them are the user's.
        layers: indices of the decoder layers.
        values: ``[layers, tokens]``. Of a gate, what each token added to the logit at each layer; of routers, the unwill share
            ``α/(α+β)``.
        score: the malicious score, with the dial.
        dial: ``δ``.
        threshold: from this score on, ``unwill`` answers; ``None`` where routers mix at any score.
        bias: of a gate, ``b``: what its logit is without any token.
        weights: of routers, ``{"unwill": α, "glad": β}``, each ``[layers, tokens]``.
    """

    kind: Literal["gate", "routers"]
    tokens: tuple[str, ...]
    user: tuple[bool, ...]
    layers: tuple[int, ...]
    values: Matrix
    score: float
    dial: float
    threshold: float | None = None
    bias: float = 0.0
    weights: Mapping[str, Matrix] = field(default_factory=dict)

    @property
    def by_token(self) -> tuple[float, ...]:
        """Of a gate, what each token added at all layers; of routers, the mean share, at the last token the score."""
        return tuple(self._over(column) for column in zip(*self.values, strict=True))

    @property
    def by_layer(self) -> tuple[float, ...]:
        """Of a gate, what all tokens added at each layer; of routers, the share at the last token, whose mean is the score."""
        return tuple(sum(row) if self.kind == "gate" else row[-1] for row in self.values)

    @property
    def logit(self) -> float:
        """Of a gate, its logit: everything that was added, the bias and the dial."""
        return sum(self.by_token) + self.bias + self.dial

    def strongest(self, count: int = 5) -> list[tuple[str, float]]:
        """The user's tokens that raised the score most, with their values, the strongest first."""
        pairs = [(token, value) for token, value, user in zip(self.tokens, self.by_token, self.user, strict=True) if user]
        return sorted(pairs, key=lambda pair: -pair[1])[:count]

    def _repr_html_(self) -> str:
        from mogu.modeling.notebook import explanation_html  # which only notebooks ask for

        return explanation_html(self)

    def _over(self, column: tuple[float, ...]) -> float:
        return sum(column) / (1 if self.kind == "gate" else len(column))


@torch.no_grad()
def explain(model: MoguModel, prompt: Prompt, *, dial: float | None = None) -> Explanation:
    """Read one prompt, and say what was read where.

    Args:
        model: a hardened model.
        prompt: an instruction, a conversation, or one with tools; the chat template is applied.
        dial: ``δ`` to score at; ``None`` is the model's.

    Raises:
        ChatTemplateError: the tokenizer has no chat template.
        ConfigError: the model's gate is still to be fitted.
    """
    ids = encode_prompt(model.tokenizer, prompt)
    dial = model.dial if dial is None else dial
    return _of_gate(model, ids, dial) if isinstance(model, GatedModel) else _of_routers(model, ids, dial)


def _of_gate(model: GatedModel, ids: list[int], dial: float) -> Explanation:
    gate, spans = model.fitted_gate(), model.marks.spans(ids)
    batch = torch.tensor([ids], device=model.device)
    reading = ContributionReading(gate, Places.of([spans], [0], len(ids), batch.device))
    with model.routing("off") as controller, suppress(AllRead):
        controller.reader = reading
        model.base_model(input_ids=batch, use_cache=False)
    values = reading.contributions()
    logit = float(values.double().sum()) + gate.bias + dial
    shown = _shown(spans, len(ids))
    return Explanation(
        "gate",
        *_texts(model, ids, spans, shown),
        layers=gate.taps,
        values=_matrix(values[:, shown]),
        score=float(torch.tensor(logit).sigmoid()),
        dial=dial,
        threshold=model.gate_config.refuse,
        bias=gate.bias,
    )


def _of_routers(model: MoguModel, ids: list[int], dial: float) -> Explanation:
    spans = find_turn_marks(model.tokenizer).spans(ids)
    with model.routing("on", dial=dial) as controller:
        model.base_model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
        weights = {name: weight[:, 0].float().cpu() for name, weight in controller.routing_weights(torch.device("cpu")).items()}
    shown = _shown(spans, len(ids))
    return Explanation(
        "routers",
        *_texts(model, ids, spans, shown),
        layers=tuple(model.routed_layer_indices),
        values=_matrix((weights["unwill"] / (weights["unwill"] + weights["glad"]))[:, shown]),
        score=float(malicious_score({name: weight[:, -1:] for name, weight in weights.items()})[0]),
        dial=dial,
        weights={name: _matrix(weight[:, shown]) for name, weight in weights.items()},
    )


def _shown(spans: PromptSpans, length: int) -> list[int]:
    return sorted({index for start, stop in spans.user for index in range(start, stop)} | {min(spans.last, length - 1)})


def _texts(model: MoguModel, ids: list[int], spans: PromptSpans, shown: list[int]) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    tokenizer = model.tokenizer
    user = tuple(any(start <= index < stop for start, stop in spans.user) for index in shown)
    return tuple(str(tokenizer.decode([ids[index]])) for index in shown), user


def _matrix(values: Tensor) -> Matrix:
    return tuple(tuple(row) for row in values.tolist())
