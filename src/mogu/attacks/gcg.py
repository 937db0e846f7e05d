"""GCG, greedy coordinate gradient: the gradient says which replacements of single suffix tokens could help, and the best that does is kept.

Zou et al. 2023 (arXiv:2307.15043, algorithm 1). The published ``nanogcg`` cannot serve here: it passes the key-value cache under the name
that transformers had for it before 5.24, and it knows one model and one loss, neither a pass that is routed nor the signal of a defense.
Unlike there, a step that finds nothing better keeps what it has. Knows tokens and gradients; knows nothing of defenses.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mogu.attacks.attempt import Attempts, Context, attack
from mogu.attacks.suffix import EVERY, STEPS, SuffixSearch, Tokens, search_suffix
from mogu.evaluation.prompts import EvalPrompt

TOP = 64
"""Tokens by which the gradient would replace each of the suffix's."""


def suffix_gradient(search: SuffixSearch) -> Tensor:
    """The gradient of the objective with respect to the best suffix's embeddings, ``[n, d]``."""
    surface, layout = search.surface, search.layout
    suffix = surface.embed(search.best).requires_grad_()
    rest = torch.cat([suffix, surface.embed(layout.after)])
    objective = surface.evaluate(rest.unsqueeze(0), layout.target_ids).objective
    (gradient,) = torch.autograd.grad(objective.sum(), suffix)
    return gradient


def substitutions(search: SuffixSearch) -> Iterator[Tokens]:
    """The best suffix so far with one token replaced, without end: any position, and any of the most promising tokens there.

    Token ``v`` in the place of ``s_i`` changes the objective by ``g_i·(e_v − e_{s_i})`` to first order; the most promising tokens have the
    least ``g_i·e_v``, which is the gradient with respect to the token's entry in a one-hot vector.
    """
    vocabulary = torch.tensor(search.layout.vocabulary)
    table = search.surface.embed(vocabulary)
    slopes = suffix_gradient(search).to(table.dtype) @ table.T
    best, rng = search.best, search.rng
    promising = vocabulary[slopes.topk(min(TOP, len(vocabulary)), largest=False).indices.cpu()].tolist()
    while True:
        at = rng.randrange(len(best))
        yield (*best[:at], rng.choice(promising[at]), *best[at + 1 :])


@attack("gcg", label="GCG", family="optimizers", access="gradients", queries=STEPS // EVERY)
def gcg(behavior: EvalPrompt, context: Context) -> Attempts:
    """Search on the open base model, which the defended one is made from."""
    yield from search_suffix(behavior, context, substitutions)


@attack("gcg_aware", label="GCG, aware", family="optimizers", access="gradients", aware=True, queries=STEPS // EVERY)
def gcg_aware(behavior: EvalPrompt, context: Context) -> Attempts:
    """Search on model and defense together: the loss as the defense answers, and ``λ`` times what the defense itself sees."""
    yield from search_suffix(behavior, context, substitutions)
