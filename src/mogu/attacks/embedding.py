"""The embedding attack: free embeddings in the place of the suffix's tokens, moved along the gradient.

Schwinn et al. 2024 (arXiv:2402.09063): signed steps from the embeddings of a harmless suffix. No text has such embeddings and no server
takes them, so that this bounds from above what any suffix of the length could do. Knows gradients; knows nothing of defenses.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mogu.attacks.attempt import Attempts, Context, ask, attack
from mogu.attacks.suffix import SuffixLayout
from mogu.evaluation.prompts import EvalPrompt

STEPS = 100
"""Steps, at most."""

EVERY = 10
"""After how many steps a reply is generated."""

STEP = 0.05
"""Length of a step in each dimension, in standard deviations of all entries of the model's embeddings."""

REPLY_TOKENS = 64
"""Tokens of a reply, at most."""


@attack("embedding", label="embeddings", family="optimizers", access="gradients", aware=True, queries=STEPS // EVERY)
def embedding(behavior: EvalPrompt, context: Context) -> Attempts:
    """Move the suffix's embeddings until the reply complies."""
    surface = context.surface()
    layout = SuffixLayout(behavior, surface.target, context.rng)
    surface.read(layout.before)
    before, after = surface.embed(layout.before), surface.embed(layout.after)
    length = STEP * float(surface.table.float().std())
    free = surface.embed(layout.start)
    if free.dtype != torch.float64:
        free, before, after = free.float(), before.float(), after.float()  # half precision would round small steps away
    for number in range(1, STEPS + 1):
        free = free.detach().requires_grad_()
        objective = surface.evaluate(torch.cat([free, after]).unsqueeze(0), layout.target_ids).objective
        (gradient,) = torch.autograd.grad(objective.sum(), free)
        free = free.detach() - length * gradient.sign()
        over = surface.meter.flops > context.flops
        if over or number % EVERY == 0:
            reply = surface.reply(torch.cat([before, free, after]), REPLY_TOKENS)
            yield replace(ask(behavior, behavior.instruction, label=f"step {number}"), reply=reply)
        if over:
            return
