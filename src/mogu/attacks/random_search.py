"""Random search: a few tokens of a suffix in a row are replaced at random, and stay replaced if the answer that is wanted gets likelier.

Andriushchenko et al. 2024 (arXiv:2404.02151, section 3), with many replacements tried in one pass rather than one after another. It needs
no gradients. Knows tokens; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator

from mogu.attacks.attempt import Attempts, Context, attack
from mogu.attacks.suffix import EVERY, STEPS, SuffixSearch, Tokens, search_suffix
from mogu.evaluation.prompts import EvalPrompt

WIDEST = 4
"""Tokens in a row that are replaced at the beginning of a search; at its end it is one."""


def mutations(search: SuffixSearch) -> Iterator[Tokens]:
    """The best suffix so far with some tokens in a row replaced, without end."""
    vocabulary, best, rng = search.layout.vocabulary, search.best, search.rng
    widest = max(1, round(WIDEST * (1 - search.progress)))
    width = min(widest, len(best))
    while True:
        at = rng.randrange(len(best) - width + 1)
        yield (*best[:at], *rng.choices(vocabulary, k=width), *best[at + width :])


@attack("random_search", label="random search", family="optimizers", access="gradients", queries=STEPS // EVERY)
def random_search(behavior: EvalPrompt, context: Context) -> Attempts:
    """Search on the open base model, which the defended one is made from."""
    yield from search_suffix(behavior, context, mutations)


@attack("random_search_aware", label="random search, aware", family="optimizers", access="gradients", aware=True, queries=STEPS // EVERY)
def random_search_aware(behavior: EvalPrompt, context: Context) -> Attempts:
    """Search on model and defense together."""
    yield from search_suffix(behavior, context, mutations)
