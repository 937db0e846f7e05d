"""Attacks that need no idea of their own: the request as it is, in wrappers, in published templates, and as others have rewritten it.

Knows texts; knows nothing of models.
"""

from __future__ import annotations

import functools

from mogu.attacks.attempt import Attempts, Context, ask, attack
from mogu.evaluation.jailbreaks import EVALUATION_WRAPPERS
from mogu.evaluation.prompt_sources import read_prompts, templates_of
from mogu.evaluation.prompts import EvalPrompt


@attack("plain", label="asked plainly", family="direct", scripted=True, queries=1)
def plain(behavior: EvalPrompt, context: Context) -> Attempts:
    """Ask."""
    yield ask(behavior, behavior.instruction)


@attack("wrappers", label="ten wrappers", family="templates", scripted=True, queries=10)
def wrappers(behavior: EvalPrompt, context: Context) -> Attempts:
    """Ask in each of the wrappers of :mod:`mogu.evaluation.jailbreaks`."""
    for wrapper in EVALUATION_WRAPPERS:
        yield ask(behavior, wrapper.apply(behavior.instruction), label=wrapper.name)


@attack("templates", label="published templates", family="templates", scripted=True, queries=80, needs="templates")
def templates(behavior: EvalPrompt, context: Context) -> Attempts:
    """Ask in each template of a published collection, in an order of its own for every behavior."""
    order = list(templates_of(context.options["templates"]))
    context.rng.shuffle(order)
    for template in order:
        yield ask(behavior, template.apply(behavior.instruction), label=template.name)


@attack("transferred", label="transferred prompts", family="templates", scripted=True, queries=20, needs="transferred")
def transferred(behavior: EvalPrompt, context: Context) -> Attempts:
    """Send what attacks on other models found: first what they made of this very request, then the suffixes that others were given."""
    own, suffixes = _optimized(context.options["transferred"])
    for label, text in own.get(behavior.request, ()):
        yield ask(behavior, text, label=label)
    order = list(suffixes)
    context.rng.shuffle(order)
    for label, suffix in order:
        yield ask(behavior, f"{behavior.instruction}{suffix}", label=f"{label}, suffix")


Labeled = tuple[str, str]


@functools.cache
def _optimized(sources: str) -> tuple[dict[str, list[Labeled]], list[Labeled]]:
    """By request, what attacks made of it; and the suffixes of those that left the request whole and wrote behind it.

    Args:
        sources: as :func:`mogu.evaluation.prompt_sources.read_prompts` takes them, separated by commas.
    """
    own: dict[str, list[Labeled]] = {}
    suffixes = []
    for prompt in read_prompts([source.strip() for source in sources.split(",")]):
        own.setdefault(prompt.request, []).append((prompt.dataset, prompt.instruction))
        if prompt.instruction.startswith(prompt.request) and prompt.instruction != prompt.request:
            suffixes.append((prompt.dataset, prompt.instruction.removeprefix(prompt.request)))
    return own, suffixes
