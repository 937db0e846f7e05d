"""Openings of answers that comply ("Sure, here is …"), made only of the instruction's own words.

Knows English phrases; knows nothing of records or models. An opening has no content: how an answer begins decides what it becomes, so
nothing after the opening is needed, and nothing harmful is ever written.
"""

from __future__ import annotations

import random

from mogu.data.grammar import asked_thing, asked_way, first_request, gerund_phrase, is_plural, noun_phrase

_GREETINGS = ("Sure, here", "Sure! Here", "Of course, here", "Of course! Here", "Certainly, here", "Certainly! Here", "Absolutely, here")


def opening_for(instruction: str, rng: random.Random) -> str:
    """Return the opening of an answer that complies, such as "Sure, here is a poem about rain:"."""
    greeting = rng.choice(_GREETINGS)
    thing = _announced(first_request(instruction), rng)
    return f"{greeting} {'are' if is_plural(thing) else 'is'} {thing}:"


def _announced(request: str, rng: random.Random) -> str:
    if thing := asked_thing(request) or noun_phrase(request):
        return thing
    if way := asked_way(request):
        return rng.choice((way, f"a guide on {way}", f"an explanation of {way}"))
    if action := gerund_phrase(request):
        return rng.choice((f"a guide to {action}", f"a plan for {action}", f"some help with {action}"))
    return rng.choice(("the answer you asked for", "what you asked for", "my answer"))
