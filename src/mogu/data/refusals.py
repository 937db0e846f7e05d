"""Refusals: a written bank of them that names what was asked for, and a quick way to see that a reply is one.

Knows English sentences; knows nothing of records or models. The detector reads phrases, not meaning: it is for building data and for quick
counts, not for judging a defence.
"""

from __future__ import annotations

import random
import re

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
"""Each has one ``{subject}``, which takes what :func:`subject_of` returns."""

_OPENING_CHARACTERS = 400
_OPENING_SENTENCES = 2
_HELPING = (
    r"(?:help (?!but )|help[.,]|assist|provide|fulfil|fulfill|comply|support|create|write|generate|give|share|answer|engage|participate"
    r"|do (?:that|this|so)|offer|discuss|encourage|condone|promote|suggest|produce|teach|guide|satisfy|complete|respond|advise|facilitate"
    r"|endorse|instruct|show|explain"
    r"|accept|continue with (?:this|that)|recommend (?!.*\benough)|tell you (?!how (?:much|happy|glad|sorry)))"
)
_UNWILLING = (
    r"(?:can ?not|can't|could not|couldn't|will not|won't|would not|wouldn't|do not|don't|shouldn't|should not|must not"
    r"|(?:am|'m|will be|'ll be) (?:unable|not able) to|(?:won't|will not) be able to|unable to|not able to"
    r"|(?:am|'m) not (?:going|willing|programmed|designed|allowed|permitted) to)"
)
_SIGNS = tuple(
    re.compile(sign, re.IGNORECASE)
    for sign in (
        rf"\bI\b ?(?:\w+ ){{0,2}}{_UNWILLING} (?:(?:also|really|simply|ethically|directly|personally|ever|in|good|conscience) ){{0,3}}"
        rf"{_HELPING}",
        r"\bI(?:'m| am)? (?:\w+ )?(?:must |have to |will have to |'ll have to |'d have to )?(?:refuse|decline|refusing|declining)\b",
        r"^(?:I'm sorry, (?:but )?|I am sorry, (?:but )?|Sorry, (?:but )?)?I(?:'m| am) (?:unable|not able) to\b",
        r"^(?:As an? [\w ,-]+, |I apologize, but |I'm sorry, but |I'm just an AI, )?(?:I (?:don't|do not) think )?"
        r"(?:it is|it's) (?:not|never) (?:\w+ (?:or|and) )?(?:appropriate|ethical|acceptable|within my)\b",
        r"\bI(?:'m| am) (?:really |very |so |truly )?sorry, but (?:I|that|this|as an)\b",
    )
)


def refusal_for(instruction: str, rng: random.Random) -> str:
    """A refusal from the bank that names what the instruction asks for."""
    return rng.choice(REFUSALS).format(subject=subject_of(instruction))


def subject_of(instruction: str) -> str:
    """What an instruction asks for, as words that fit behind "help with": "writing a poem", "tips for …", "this request"."""
    request = first_request(instruction)
    if phrase := gerund_phrase(request) or noun_phrase(request):
        return phrase
    if is_question(request) and len(request) <= 100 and '"' not in request:
        return f'the question "{request.rstrip(".?! ")}?"'
    return "that question" if is_question(request) else "this request"


def is_refusal(reply: str) -> bool:
    """Whether a reply opens with a refusal, judged by the phrases of its first two sentences."""
    opening = " ".join(reply[: 2 * _OPENING_CHARACTERS].replace("’", "'").split())[:_OPENING_CHARACTERS]
    sentences = re.split(r"(?<=[.!?]) ", opening)[:_OPENING_SENTENCES]
    return any(sign.search(sentence) for sentence in sentences for sign in _SIGNS)
