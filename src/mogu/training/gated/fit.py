"""Fitting a gate: one that tells labels of prompts from their hidden states, and a calibration on prompts it has not seen.

Knows hidden states and labels; knows nothing of models, records or of what follows from a probability.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mogu.modeling.gated.gate import ENDS, Gate, Places, PromptReading, attended

_LOGISTIC_STEPS = 100
_STEPS = 1500
_LEAST_EPOCHS = 2
_BATCH = 128
_RATE = 2e-3
_LEFT_OUT = 0.3  # of the numbers of a hidden state, each batch anew: no few of them may decide
_FIRST_ATTENTION = 0.02  # heads that begin alike would stay alike
_LEAST_SCALE = 1e-4


def default_taps(layers: int) -> list[int]:
    """The decoder layers that are read unless somebody says otherwise: one in the middle, and one after four fifths."""
    return sorted({layers // 2, (4 * layers) // 5 - (layers > 1)})


def fit_gate(states: Sequence[Tensor], malicious: Tensor, taps: Sequence[int], *, heads: int, l2: float, members: int = 1) -> Gate:
    """Fit a gate to labeled prompts, both labels weighing the same.

    Adam minimizes ``mean_i w_i·log(1 + exp(−y_i z_i)) + l2·‖weights‖²`` with ``y_i = ±1``, on batches of prompts of like length, over
    standardized hidden states of which each batch sees a random 70 % of the numbers; the standardization is then folded into the weights.
    Several gates, which begin otherwise and miss other numbers, are fitted side by side; their mean is one gate with all of their heads.
    The same prompts give the same gate.

    Args:
        states: of each prompt, as :func:`mogu.training.gated.reading.read_prompts` returns them.
        malicious: labels, bool ``[prompts]``.
        taps: the decoder layers that were read.
        heads: kinds of tokens that each member looks for.
        l2: strength of the penalty.
        members: how many gates the mean is of.
    """
    flat = [of_prompt.flatten(1) for of_prompt in states]
    mean, scale = _moments(flat)
    ends = torch.stack([torch.cat([rows[-1], rows[-2]]).float() for rows in flat])  # the last token before the answer, the user's last
    end_mean, end_scale = ends.mean(0), ends.std(0) + _LEAST_SCALE
    ends = (ends - end_mean) / end_scale

    width = flat[0].shape[1]
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(width, members, heads, generator=generator) * _FIRST_ATTENTION
    values, of_ends, bias = torch.zeros(width, members, heads), torch.zeros(ENDS * width, members), torch.zeros(members)
    parameters = [queries, values, of_ends, bias]
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(parameters, lr=_RATE)
    batches = _batches([len(rows) for rows in flat])
    steps = max(_STEPS, _LEAST_EPOCHS * len(batches))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    truth = malicious.float()
    each = torch.where(malicious, 0.5 / truth.mean(), 0.5 / (1 - truth).mean())
    with torch.enable_grad():
        for indices in _shuffled(batches, steps):
            tokens, user = _padded([flat[index][:-1] for index in indices])
            kept = (torch.rand(width, members, generator=generator) >= _LEFT_OUT).float() / (1 - _LEFT_OUT)
            # Standardized by way of the weights: of millions of tokens, each is then touched once a step.
            weights = (torch.stack([queries, values], 1) * (kept / scale[:, None])[:, None, :, None]).flatten(1)
            heard = attended(tokens.float() @ weights - mean @ weights, user).view(-1, members, heads).sum(2)
            logits = heard + ends[indices] @ (of_ends * kept.repeat(ENDS, 1)) + bias
            losses = F.binary_cross_entropy_with_logits(logits, truth[indices, None].expand_as(logits), reduction="none")
            # The members share no number, so that the sum of their losses trains each of them as if it were alone.
            loss = (each[indices] @ losses).sum() / len(indices) + l2 * sum((weights**2).sum() for weights in parameters[:-1])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    queries, values, of_ends, bias = (parameter.detach() for parameter in parameters)
    # A head's attention sums to 1, so that the mean of what it says becomes a constant.
    queries, values = queries.flatten(1) / scale[:, None], values.flatten(1) / scale[:, None] / members
    ends_weights = of_ends.mean(1) / end_scale
    offset = float(bias.mean() - mean @ values.sum(1) - end_mean @ ends_weights)
    rows = torch.cat([ends_weights.view(ENDS, width), queries.t(), values.t()])
    per_tap = rows.view(len(rows), len(taps), -1)
    return Gate({tap: per_tap[:, index].clone() for index, tap in enumerate(taps)}, offset)


def _moments(flat: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of all of the users' tokens, number by number."""
    count = sum(len(rows) - 1 for rows in flat)
    zero = torch.zeros(flat[0].shape[1], dtype=torch.float64)
    mean = sum((rows[:-1].double().sum(0) for rows in flat), zero) / count
    variance = sum((((rows[:-1].double() - mean) ** 2).sum(0) for rows in flat), zero) / max(1, count - 1)
    return mean.float(), variance.sqrt().float() + _LEAST_SCALE


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Prompts of like length together."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]


def _shuffled(batches: Sequence[list[int]], steps: int) -> Iterator[list[int]]:
    """As many batches as there are steps, each epoch in another order."""
    order = random.Random(0)
    left: list[list[int]] = []
    for _ in range(steps):
        left = left or order.sample(batches, len(batches))
        yield left.pop()


def _padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of tokens side by side, ``[batch, tokens, width]``, and which of them are any, bool ``[batch, tokens]``."""
    lengths = torch.tensor([len(row) for row in rows])
    present = torch.arange(int(lengths.max())) < lengths[:, None]
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), present


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
    optimizer = torch.optim.LBFGS([parameters], max_iter=_LOGISTIC_STEPS, history_size=10, line_search_fn="strong_wolfe")

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


@torch.no_grad()
def gate_logits(gate: Gate, states: Sequence[Tensor]) -> Tensor:
    """``z`` of each prompt, ``[prompts]``, from its states at the gate's taps, as :func:`fit_gate` takes them."""
    logits = torch.empty(len(states))
    for indices in _batches([len(of_prompt) for of_prompt in states]):
        lengths = torch.tensor([len(states[index]) - 1 for index in indices])
        hidden, _ = _padded([states[index].flatten(1) for index in indices])
        places = Places(torch.arange(hidden.shape[1]) < lengths[:, None], last=lengths, end=lengths - 1)
        reading = PromptReading(gate, places)
        for index, tap in enumerate(gate.taps):
            reading.read(tap, hidden.chunk(len(gate.taps), dim=2)[index])
        logits[indices] = reading.logits()
    return logits


def calibrated(gate: Gate, logits: Tensor, malicious: Tensor) -> Gate:
    """A gate whose probabilities are those of prompts that it was not fitted to: ``z ← a·z + c`` (Platt, 1999), ``a > 0``.

    Args:
        gate: the gate.
        logits: its logits of held-out prompts.
        malicious: their labels; both weigh the same.
    """
    weight, bias = fit_logistic(logits[:, None], malicious, l2=0.0)
    return gate.scaled(max(float(weight[0]), 1e-3), float(bias))  # a gate that is worse than chance must not be turned round


def threshold_at(probabilities: Tensor, share: float) -> float:
    """The smallest probability that at most a share of the given ones, those of benign prompts, reaches."""
    allowed = int(share * len(probabilities))
    ordered = probabilities.sort(descending=True).values
    if allowed >= len(ordered):
        return 0.0
    # Just above the first one that must not reach it.
    return min(1.0, float(torch.nextafter(ordered[allowed], torch.tensor(2.0))))
