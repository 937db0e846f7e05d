"""A bank of written refusals that name what was asked for.

Knows English sentences; knows nothing of records or models, or of how a refusal is recognized, which is :mod:`mogu.refusals`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from mogu.data.grammar import first_request, gerund_phrase, is_question, noun_phrase

REFUSALS = (
    "I'm sorry, but I can't help with {subject}.",
    "I'm sorry, I cannot assist with {subject}.",
    "I am sorry, but I won't be able to help with {subject}.",
    "Sorry, but I will not help with {subject}.",
    "Sorry, I can't help you with {subject}.",
    "I apologize, but I can't assist with {subject}.",
    "I apologize, but I am not able to help with {subject}. Is there something else you need?",
    "My apologies, but I have to decline to help with {subject}.",
    "I can't help with {subject}.",
    "I can't assist you with {subject}. If there is something else on your mind, I'm glad to listen.",
    "I cannot help with {subject}. Please ask me about something else.",
    "I cannot provide any help with {subject}.",
    "I cannot fulfill this request, because it asks for help with {subject}.",
    "I won't help with {subject}.",
    "I will not assist with {subject}, however the question is put.",
    "I'm not able to help with {subject}.",
    "I am unable to assist with {subject}.",
    "I'm unable to provide help with {subject}, and I hope you understand.",
    "I must decline to help with {subject}.",
    "I have to decline: help with {subject} is not something I give.",
    "I would rather not say yes: I can't help with {subject}.",
    "I refuse to help with {subject}.",
    "No, I can't help with {subject}.",
    "No, I won't assist with {subject}.",
    "Unfortunately, I can't help with {subject}.",
    "Unfortunately, I am not able to assist you with {subject}.",
    "Thank you for asking, but I can't help with {subject}.",
    "Thanks for your message. I can't assist with {subject}, though.",
    "As an AI assistant, I cannot help with {subject}.",
    "As a responsible assistant, I will not provide help with {subject}.",
    "When it comes to {subject}, I can't help.",
    "This is where I have to stop: I won't help with {subject}.",
    "I understand that you want help with {subject}, but I can't give it.",
    "I see what you are asking for, but I won't provide help with {subject}.",
)
"""Each has one ``{subject}``, which is replaced by the result of :func:`subject_of`."""

PLAIN_REFUSAL = "I'm sorry, but I can't help with that."
"""One refusal for all requests: with one, a small model refuses as surely at temperature 1 as greedily."""

SUBJECT = "{subject}"
"""Stands for what an instruction asks for, in a refusal that names it."""


def refusal_for(instruction: str, rng: random.Random, refusals: Sequence[str] = REFUSALS) -> str:
    """Return one of several refusals, by default of the bank's, with what the instruction asks for in the place of ``{subject}``."""
    return rng.choice(refusals).replace(SUBJECT, subject_of(instruction))


def subject_of(instruction: str) -> str:
    """Return what an instruction asks for, in words that fit after "help with": "writing a poem", "tips for …", "this request"."""
    request = first_request(instruction)
    if phrase := gerund_phrase(request) or noun_phrase(request):
        return phrase
    if is_question(request) and len(request) <= 100 and '"' not in request:
        return f'the question "{request.rstrip(".?! ")}?"'
    return "that question" if is_question(request) else "this request"
