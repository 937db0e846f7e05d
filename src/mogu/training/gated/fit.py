"""Fitting a gate: hidden states of labeled prompts, a logistic regression on them, and a calibration on prompts it has not seen.

Knows models, token ids and labels; knows nothing of records or of what follows from a probability.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import DynamicCache

from mogu.inference.batches import in_batches
from mogu.inference.turns import TurnMarks
from mogu.modeling.architectures import find_output_projections
from mogu.modeling.gated.gate import PROMPT_READINGS, Gate, Places, prompt_readings
from mogu.modeling.gated.injection import listen_at
from mogu.modeling.routing import RoutingController, RoutingScope
from mogu.transformers_compat import cache_argument, cache_of

_STEPS = 100


def default_taps(layers: int) -> list[int]:
    """The decoder layers that are read unless somebody says otherwise: one in the middle, and one after four fifths."""
    return sorted({layers // 2, (4 * layers) // 5 - (layers > 1)})


@torch.no_grad()
def read_prompts(
    base: Any,
    prompts: Sequence[list[int]],
    *,
    taps: Sequence[int],
    marks: TurnMarks,
    pad_token_id: int,
    batch_size: int,
    output_projection: str | None = None,
    advance: Callable[[int], None] | None = None,
) -> Tensor:
    """What a gate reads of each prompt, ``[prompts, taps, 3, d]``, float32, on the CPU: one pass of the base model, up to the last tap.

    What all prompts begin with, such as a system prompt, is read once.

    Args:
        base: the base model, plain, in evaluation mode.
        prompts: token ids of each.
        taps: the decoder layers to read.
        marks: what stands around the user's turns.
        pad_token_id: fills up rows.
        batch_size: prompts a pass, at most.
        output_projection: path of the attention output projection in a decoder layer, by which the layers are found.
        advance: is told how many prompts each pass had.
    """
    scope = RoutingScope()
    near = find_output_projections(base, output_projection)[0].name
    handles = listen_at(base, scope, taps, near)
    spans = [marks.spans(prompt) for prompt in prompts]
    shared = min(_common_start(prompts), *(found.user[0][0] for found in spans))
    cache = _read_once(base, prompts[0][:shared]) if shared else None
    if type(cache) is not DynamicCache:  # of a kind that cannot be had for several rows
        shared, cache = 0, None

    def read(indices: list[int]) -> list[Tensor]:
        # Padded on the right and without a mask: causal attention never looks to the right, and reading is faster so.
        rest = [prompts[index][shared:] for index in indices]
        width = max(map(len, rest))
        ids = torch.tensor([[*tokens, *[pad_token_id] * (width - len(tokens))] for tokens in rest], device=base.device)
        controller = RoutingController(scope, "off")
        places = Places.of([spans[index] for index in indices], [-shared] * len(indices), width, base.device)
        controller.reader = collecting = _Collecting(taps, places)
        with controller, suppress(_AllRead):
            base(input_ids=ids, **_behind(base, cache, len(indices)))
        return list(torch.stack([collecting.readings[tap] for tap in taps], dim=1))

    try:
        return torch.stack(in_batches(read, [len(prompt) - shared for prompt in prompts], most=lambda _: batch_size, advance=advance))
    finally:
        for handle in handles:
            handle.remove()


def _common_start(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with alike, such as a system prompt; each keeps one of its own at least."""
    first, shortest = prompts[0], min(map(len, prompts)) - 1
    return next((index for index in range(shortest) if any(prompt[index] != first[index] for prompt in prompts)), shortest)


def _read_once(base: Any, tokens: Sequence[int]) -> Any:
    """The key-value cache of what all prompts begin with."""
    return cache_of(base(input_ids=torch.tensor([list(tokens)], device=base.device), use_cache=True))


def _behind(base: Any, cache: Any, rows: int) -> dict[str, Any]:
    """Options of a pass behind what has been read once."""
    if cache is None:
        return {"use_cache": False}
    copied = copy.deepcopy(cache)  # a pass writes into its cache
    copied.batch_repeat_interleave(rows)
    return {"use_cache": True, cache_argument(base): copied}


class _AllRead(Exception):
    """Every tap has been read: the rest of the pass is not needed."""


class _Collecting:
    def __init__(self, taps: Sequence[int], places: Places) -> None:
        self._taps, self._places = taps, places
        self.readings: dict[int, Tensor] = {}

    def read(self, tap: int, hidden: Tensor) -> None:
        self.readings[tap] = prompt_readings(hidden, self._places).cpu()
        if len(self.readings) == len(self._taps):
            raise _AllRead


def fit_gate(readings: Tensor, malicious: Tensor, taps: Sequence[int], *, l2: float) -> Gate:
    """Fit a logistic regression on standardized readings, both labels weighing the same.

    It minimizes ``mean_i w_i·log(1 + exp(−y_i z_i)) + l2·‖weights‖²`` over the standardized numbers, with ``y_i = ±1``; the standardization
    is then folded into the weights.

    Args:
        readings: ``[prompts, taps, 3, d]``.
        malicious: labels, bool ``[prompts]``.
        taps: the decoder layers that were read.
        l2: strength of the penalty.
    """
    features = readings.flatten(1)
    mean, scale = features.mean(0), features.std(0) + 1e-4
    weights, bias = fit_logistic((features - mean) / scale, malicious, l2=l2)
    weights = weights / scale
    per_tap = weights.view(len(taps), len(PROMPT_READINGS), -1)
    return Gate({tap: vectors.clone() for tap, vectors in zip(taps, per_tap, strict=True)}, float(bias - (weights * mean).sum()))


def fit_logistic(features: Tensor, positive: Tensor, *, l2: float, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Fit ``σ(w·x + c)`` to labels, both of which weigh the same; return ``w [d]`` and ``c``.

    Args:
        features: ``x [n, d]``.
        positive: labels, bool ``[n]``.
        l2: of ``w``.
        weights: of each row; by default all are the same.
    """
    truth = positive.to(features.dtype)
    each = torch.ones_like(truth) if weights is None else weights.to(features.dtype)
    each = torch.where(positive, each / (2 * each[positive].sum()), each / (2 * each[~positive].sum()))
    parameters = torch.zeros(features.shape[1] + 1, dtype=features.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=_STEPS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = features @ parameters[:-1] + parameters[-1]
        total = (each * F.binary_cross_entropy_with_logits(logits, truth, reduction="none")).sum() + l2 * (parameters[:-1] ** 2).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    fitted = parameters.detach()
    return fitted[:-1], fitted[-1]


def gate_logits(gate: Gate, readings: Tensor) -> Tensor:
    """``z`` of each prompt, ``[prompts]``, from what was read of it, ``[prompts, taps, 3, d]``."""
    vectors = torch.stack([gate.vectors[tap] for tap in gate.taps])
    return (readings * vectors).sum((1, 2, 3)) + gate.bias


def calibrated(gate: Gate, logits: Tensor, malicious: Tensor) -> Gate:
    """A gate whose probabilities are those of prompts that it was not fitted to: ``z ← a·z + c`` (Platt, 1999), ``a > 0``.

    Args:
        gate: the gate.
        logits: its logits of held-out prompts.
        malicious: their labels; both weigh the same.
    """
    weight, bias = fit_logistic(logits[:, None], malicious, l2=0.0)
    slope = max(float(weight[0]), 1e-3)  # a gate that is worse than chance must not be turned round
    return Gate({tap: vectors * slope for tap, vectors in gate.vectors.items()}, gate.bias * slope + float(bias))


def threshold_at(probabilities: Tensor, share: float) -> float:
    """The smallest probability that at most a share of the given ones, those of benign prompts, reaches."""
    allowed = int(share * len(probabilities))
    ordered = probabilities.sort(descending=True).values
    if allowed >= len(ordered):
        return 0.0
    # Just above the first one that must not reach it.
    return min(1.0, float(torch.nextafter(ordered[allowed], torch.tensor(2.0))))
