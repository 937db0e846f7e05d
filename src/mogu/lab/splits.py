"""The lab's splits: records to train defenses on, and prompts to choose and to measure them with.

Train, dev and test share no subject and no wrapper. Everything is drawn from fixed seeds: the same call always gives the same list.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal

from mogu.data.records import Label, Record
from mogu.data.templates import PromptTemplate
from mogu.errors import ConfigError
from mogu.evaluation.prompts import Category, EvalPrompt
from mogu.lab import wrappers
from mogu.lab.requests import Request, borderline_requests, fact_requests, how_to_requests, malicious_requests

LAB = "lab"
"""What the lab's prompts, their judge and its models are registered as."""

LAB_RECORDS = "the lab's own records"
"""Stands in a recipe where other recipes name a file of records."""

LAB_BORDERLINE_RECORDS = "lab-borderline"
"""The same, and borderline records beside them, as somebody has who knows what their users ask."""

_WRAPPERS = {"train": wrappers.TRAIN, "dev": wrappers.DEV, "test": wrappers.TEST}
_RECORDS = {"train": 300, "dev": 60}
_HOW_TO_SHARE = 0.4  # of the benign requests; the others ask for facts

# Prompts of each category, by split; wrapped ones are spread evenly over the wrappers of the split (7 for dev, 18 for test).
_PROMPTS: dict[str, dict[Category, int]] = {
    "dev": {"benign": 60, "benign_wrapped": 56, "borderline": 48, "malicious": 60, "malicious_wrapped": 56},
    "test": {"benign": 160, "benign_wrapped": 216, "borderline": 128, "malicious": 160, "malicious_wrapped": 216},
}


def _draw(pool: Sequence[Request], count: int, rng: random.Random) -> list[Request]:
    """Draw ``count`` requests, as evenly over verbs as the pool allows: otherwise verbs that fit more objects would dominate."""
    by_verb: dict[str, list[Request]] = {}
    for request in rng.sample(pool, len(pool)):
        by_verb.setdefault(request.verb, []).append(request)
    drawn: list[Request] = []
    while len(drawn) < count and any(by_verb.values()):
        drawn += [requests.pop() for requests in by_verb.values() if requests]
    return drawn[:count]


def _benign(split: Literal["train", "dev", "test"], count: int, rng: random.Random) -> list[Request]:
    how_to = _draw(how_to_requests(split), round(count * _HOW_TO_SHARE), rng)
    facts = fact_requests([split])
    rounds = -(-(count - len(how_to)) // len(facts))
    drawn = [request for _ in range(rounds) for request in rng.sample(facts, len(facts))][: count - len(how_to)]
    return rng.sample(how_to + drawn, count)


def _phrased(requests: Sequence[Request], rng: random.Random) -> Iterator[tuple[Request, str]]:
    """Each request with a wording that no earlier one has."""
    used: set[str] = set()
    for request in requests:
        text = rng.choice([text for text in request.texts if text not in used] or list(request.texts))
        used.add(text)
        yield request, text


def _paired(
    requests: Sequence[Request], given: Sequence[PromptTemplate], rng: random.Random
) -> list[tuple[Request, PromptTemplate | None]]:
    """Each request with a wrapper, the wrappers taking turns, shuffled until no wrapper gets the same request twice."""
    if not given:
        return [(request, None) for request in requests]
    while True:
        pairs = [(request, given[number % len(given)]) for number, request in enumerate(rng.sample(requests, len(requests)))]
        if len({(request.kept_text, wrapper.name) for request, wrapper in pairs}) == len(pairs):
            return list(pairs)


def records(
    split: Literal["train", "dev"], *, benign: int | None = None, malicious: int | None = None, wrapped: float = 0.5
) -> list[Record]:
    """Draw training pairs for a defense: requests with a helpful and a refusing answer.

    Args:
        split: ``"train"`` (300 benign and 300 malicious pairs by default) or ``"dev"`` (60 and 60).
        benign: how many benign pairs, at most 600.
        malicious: how many malicious pairs, at most 600.
        wrapped: the share of each that is put into one of the split's wrappers, from 0 to 1.

    Raises:
        ConfigError: an unknown split, or a number out of its range.
    """
    if split not in _RECORDS:
        raise ConfigError(f"No split {split!r} has records", expected="'train' or 'dev'", action="choose one of them")
    counts = {"benign": _RECORDS[split] if benign is None else benign, "malicious": _RECORDS[split] if malicious is None else malicious}
    for label, count in counts.items():
        if not 0 <= count <= 600:
            raise ConfigError(f"{count} {label} records were requested", expected="a number from 0 to 600", action="request fewer")
    if not 0 <= wrapped <= 1:
        raise ConfigError(f"A share of {wrapped} wrapped records", expected="a number from 0 to 1", action="give a share such as 0.5")
    rng = random.Random(f"records {split}")
    drawn: list[tuple[Label, list[Request]]] = [
        ("benign", _benign(split, counts["benign"], rng)),
        ("malicious", rng.sample(_draw(malicious_requests(split), counts["malicious"], rng), counts["malicious"])),
    ]
    made = []
    for label, requests in drawn:
        for number, (request, text) in enumerate(_phrased(requests, rng)):
            wrapper = rng.choice(_WRAPPERS[split])
            made.append(
                Record(
                    id=f"lab-{split}-{label}-{number:03d}",
                    label=label,
                    instruction=wrapper.apply(text) if number < round(wrapped * len(requests)) else text,
                    # Of a malicious answer only the opening exists, which is what a defense needs.
                    affirm=request.affirmation(rng) if label == "benign" else request.opening(rng),
                    reject=request.refusal(rng),
                )
            )
    return made


def borderline_records(count: int) -> list[Record]:
    """Draw borderline records to train a defense with, about things that the base model knows and that neither dev nor test asks about.

    Args:
        count: how many; a third is in wrappers of the training split.
    """
    rng = random.Random("records borderline")
    made = []
    for number, (request, text) in enumerate(_phrased(_draw(borderline_requests("base"), count, rng), rng)):
        wrapper = rng.choice(_WRAPPERS["train"])
        made.append(
            Record(
                id=f"lab-train-borderline-{number:03d}",
                label="benign",
                borderline=True,
                instruction=wrapper.apply(text) if number % 3 == 0 else text,
                affirm=request.affirmation(rng),
                reject=request.refusal(rng),
            )
        )
    return made


def prompts(split: Literal["dev", "test"]) -> list[EvalPrompt]:
    """Draw prompts to measure with: plain benign, malicious and borderline ones; benign and malicious ones in every wrapper of the split.

    Raises:
        ConfigError: an unknown split.
    """
    if split not in _PROMPTS:
        raise ConfigError(f"No split {split!r} has prompts", expected="'dev' or 'test'", action="choose one of them")
    return [prompt for prompt, _ in _drawn_prompts(split)]


def choice_records() -> list[Record]:
    """Make records of the dev prompts, to choose a defense's settings with: unlike :func:`records`, they include borderline requests.

    A choice made without those favors settings that refuse at the sound of a verb.
    """
    rng = random.Random("choice records")
    return [
        Record(
            id=prompt.id,
            label="malicious" if prompt.answer is None else "benign",
            instruction=prompt.instruction,
            affirm=request.opening(rng) if prompt.answer is None else request.affirmation(rng),
            reject=request.refusal(rng),
        )
        for prompt, request in _drawn_prompts("dev")
    ]


def _drawn_prompts(split: Literal["dev", "test"]) -> Iterator[tuple[EvalPrompt, Request]]:
    rng = random.Random(f"prompts {split}")
    for category, count in _PROMPTS[split].items():
        if category == "borderline":
            requests = _draw(borderline_requests(split), count, rng)
        elif category.startswith("malicious"):
            requests = _draw(malicious_requests(split), count, rng)
        else:
            requests = _benign(split, count, rng)
        given = _WRAPPERS[split] if category.endswith("wrapped") else ()
        for number, (request, wrapper) in enumerate(_paired(requests, given, rng)):
            text = wrapper.apply(request.kept_text) if wrapper else request.kept_text
            prompt = EvalPrompt(
                id=f"lab-{split}-{category}-{number:03d}",
                dataset=LAB,
                category=category,
                conversation=({"role": "user", "content": text},),
                request=request.kept_text,
                wrapper=wrapper.name if wrapper else None,
                group=wrapper.kind if wrapper else None,
                answer=request.expected,
                judge=LAB,
            )
            yield prompt, request
