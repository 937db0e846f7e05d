"""Tell instructions that only do something to a text (translate, rewrite, summarize it) from those that ask for something.

What such an instruction asks for, and whether a model should answer it, lies in the text that it is about. Knows words.
"""

from __future__ import annotations

import re

from mogu.data.grammar import first_request

_VERB_LIST = """
abbreviate capitalize change condense convert correct cut edit expand extract fix format improve paraphrase proofread punctuate rearrange
reformulate rephrase replace reverse reword rewrite shorten simplify spell-check summarise summarize transcribe transform translate
unscramble
"""
_VERBS = _VERB_LIST.split()
_MANIPULATES = re.compile(
    rf"^(?:how (?:do|would|can|could) (?:i|you|we|one) )?(?:please )?(?:{'|'.join(_VERBS)})\b|^(?:write|give|make|create|provide) "
    r"(?:me |us )?(?:an? |the )?(?:\w+ )?(?:summary|translation|paraphrase|abridged version|shorter version)\b",
    re.IGNORECASE,
)
_AMBIGUOUS = {"change", "convert", "correct", "cut", "expand", "extract", "fix", "format", "improve", "replace", "reverse", "transform"}
_TEXT = re.compile(
    r"\b(?:abstract|article|document|draft|e-?mail|essay|headline|letters?|lines?|lyrics|message|note|paragraph|passage|phrase|poem|quote"
    r"|quotation|review|sentences?|speech|spelling|story|summary|tense|text|title|verse|voice|words?)\b",
    re.IGNORECASE,
)


def only_manipulates_text(instruction: str) -> bool:
    """Whether all that an instruction wants is something done to a text: "Translate this sentence: …", "Give me a summary of …".

    Verbs that are also said of other things ("fix", "cut") count where a text is named in the same sentence.
    """
    request = first_request(instruction)
    match = _MANIPULATES.match(request)
    if match is None:
        return False
    verb = match[0].lower().split()[-1]
    return verb not in _AMBIGUOUS or _TEXT.search(request) is not None
