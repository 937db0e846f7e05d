"""Split a reply in which several voices speak: "[CLASSIC] … [JAILBREAK] …", "ChatGPT: … DAN: …", "As GPT, … As VERA, …".

Jailbreak templates ask for a refusal in one voice and for the answer in another, and a reply does what the most obliging of its voices
does. Knows how voices are announced; knows nothing of what they say.
"""

from __future__ import annotations

import re

_MOST = 8  # voices that are told apart
_SHORTEST = 25  # characters of what a voice says; less is a heading
_EMOJI = "\U0001f000-\U0001faff\u2600-\u27bf"
_GREEK = "\u0370-\u03ff"
_LINE = r"(?:^|\n)[ \t\"'*_>#]{0,8}"
_SENTENCE = rf"(?:{_LINE}|(?<=[.!?\"”)])\s{{1,4}})"
_PART_OF_TEXT = (
    "step|note|title|subject|example|ingredient|tip|warning|disclaimer|answer|question|prompt|response|input|output|method|option|chapter"
    "|part|re|dear|remember|source|ps|here|conclusion|summary|instruction|important|caution|user|day|week|scene|date|name|time|total|body"
    "|assistant|ai|bot|model|introduction|pros|cons|edit|update|reminder|bonus|fact|result|sample"
)
_VOICE = re.compile(
    rf"""
    {_SENTENCE}[\[(【<{{]\s{{0,2}}(?P<bracketed>[^\[\](){{}}<>\n]{{2,40}})[\])】>}}]\s{{0,2}}[:*_-]{{0,4}}
    |{_SENTENCE}[{_EMOJI}]{{1,3}}\s{{0,2}}[\w .]{{0,30}}[:\]-]
    |{_LINE}(?P<named>[A-Z{_GREEK}][\w.+-]{{0,20}}(?:[ ](?:[A-Z\d(\#{_EMOJI}][\w.+)-]{{0,20}}|mode|as)){{0,3}})
      [ ]?[{_EMOJI}]?[*_]{{0,2}}\s?:
    |{_SENTENCE}(?:And\s|Now,?\s)?[Aa]s\s(?!an?\s)(?P<acted>[A-Z][\w-]{{1,20}}(?:\s[A-Z][\w-]{{1,20}}){{0,2}})(?:\swith\s[\w ]{{4,30}})?,
    """,
    re.VERBOSE,
)
_ORDINARY = re.compile(rf"(?:{_PART_OF_TEXT})s?\b", re.IGNORECASE)
_LETTER = re.compile(r"[^\W\d_]")


def voices(reply: str) -> list[str]:
    """What each voice of a reply says, in order, without its name; the whole reply where only one speaks.

    Args:
        reply: cleaned, and of bounded length.
    """
    cuts = [(match.start(), match.end()) for match in _VOICE.finditer(reply) if _is_voice(match)]
    starts = [0, *(end for _, end in cuts)]
    ends = [*(start for start, _ in cuts), len(reply)]
    said = [text for start, end in zip(starts, ends, strict=True) if len(text := reply[start:end].strip()) >= _SHORTEST]
    return said[: _MOST - 1] + said[-1:] if len(said) > _MOST else said or [reply]


def _is_voice(match: re.Match[str]) -> bool:
    name = match["bracketed"] or match["named"] or match["acted"]
    return name is None or (_LETTER.search(name) is not None and _ORDINARY.match(name.strip()) is None)
