"""Fitting a stream head: one that tells from the base model's states while it answers whether the request was malicious.

Knows hidden states, a gate's logits and labels; knows nothing of models, records or of what follows from a probability.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mogu.modeling.gated.gate import StreamHead
from mogu.training.gated.fit import fit_logistic

_LEAST_SCALE = 1e-4


def fit_stream_head(states: Sequence[Tensor], logits: Tensor, malicious: Tensor, taps: Sequence[int], *, l2: float) -> StreamHead:
    """Fit a stream head to answers of the base model: a logistic regression at every token.

    Both labels weigh the same, each answer as much as any other, and each of its tokens too. What is read is standardized first; the
    standardization is then folded into the weights.

    Args:
        states: of each answer ``[tokens, taps, d]``, as :func:`mogu.training.gated.reading.read_answers` returns them.
        logits: what the gate made of each prompt, ``[answers]``.
        malicious: whether the request was, bool ``[answers]``.
        taps: the decoder layers that were read.
        l2: strength of the penalty on the weights.
    """
    readings = [_readings(of_answer, float(logit)) for of_answer, logit in zip(states, logits, strict=True)]
    lengths = torch.tensor([len(rows) for rows in readings])
    features = torch.cat(readings)
    mean, scale = features.mean(0), features.std(0) + _LEAST_SCALE
    each = (1 / lengths.float()).repeat_interleave(lengths)
    weights, bias = fit_logistic((features - mean) / scale, malicious.repeat_interleave(lengths), l2=l2, weights=each)
    weights = weights / scale
    of_taps = weights[:-1].view(2, len(taps), -1)  # of the token and of the mean
    vectors = {tap: of_taps[:, index].clone() for index, tap in enumerate(taps)}
    return StreamHead(vectors, float(weights[-1]), float(bias - mean @ weights))


def _readings(states: Tensor, logit: float) -> Tensor:
    """What a stream head hears at each token of an answer: its states, their mean so far, the prompt's logit."""
    flat = states.flatten(1).float()
    mean = flat.cumsum(0) / torch.arange(1, len(flat) + 1)[:, None]
    return torch.cat([flat, mean, torch.full((len(flat), 1), logit)], 1)


def alarms(head: StreamHead, states: Sequence[Tensor], logits: Tensor) -> Tensor:
    """The largest probability in the course of each answer, ``[answers]``; 0 where an answer has no token."""
    taps = sorted(head.vectors)
    vectors = torch.stack([head.vectors[tap] for tap in taps], 1).flatten(1)  # [2, taps·d]
    weights = torch.cat([vectors.flatten(), torch.tensor([head.prompt])])
    heard = [_readings(of_answer, float(logit)) @ weights + head.bias for of_answer, logit in zip(states, logits, strict=True)]
    return torch.stack([row.max().sigmoid() if len(row) else torch.zeros(()) for row in heard])
