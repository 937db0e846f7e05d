"""A reply made ready to be judged: bounded, cleaned, cut into sentences, with code and quoted speech set aside.

Knows text in general; knows nothing of refusals.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEAD = 4_000  # characters read from the beginning of a reply, and
_TAIL = 1_000  # from its end
_LONGEST_SENTENCE = 400
_MOST_SENTENCES = 48
_LAST_SENTENCES = 8
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]+")
_PUNCTUATION = str.maketrans(dict.fromkeys("’‘ʼ´", "'") | dict.fromkeys("“”„«»「」『』", '"') | {"\u00a0": " "})
_THOUGHT = re.compile(r"\s*<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL)
_ROLE = re.compile(r'[\s"]*(?:<\|?[\w| ]{1,40}\|?>\s*){0,3}(?:(?:assistant|response|answer|ai|bot|model)\s*:\s*)?', re.IGNORECASE)
_CODE = re.compile(r"```[^`]{0,4000}(?:```|\Z)")
_QUOTATION = re.compile(r'"[^"\n]{1,300}"')
_EMPHASIS = re.compile(r"[*_]{1,3}(?=\w)|(?<=[\w.,:!?])[*_]{1,3}")
_ITEM = re.compile(r"^[ \t]*(?:\d{1,2}[.):]|[-*•–●▪]|[a-z][.)]|step \d{1,2}\b)[ \t]*(?=\S)", re.IGNORECASE | re.MULTILINE)
_BREAK = re.compile(r"(?<=[.!?…])\s+|(?<=[.!?…][\"')\]])\s+|(?<=[。！？।۔])\s*|\s*\n\s*")
_HIDDEN = "\x1f"  # in the place of each character of quoted speech; control characters are gone by then
_LETTER = re.compile(r"\w")


@dataclass(frozen=True)
class Reading:
    """What of a reply is judged.

    Args:
        sentences: of its beginning and its end, lower case, without code and quoted speech.
        originals: the same sentences as they stand in the reply, white space and invisible characters mended.
        items: how many items its lists have.
        code: whether it holds a block of code.
        blank: whether there is nothing to see in it, not even a symbol.
    """

    sentences: tuple[str, ...]
    originals: tuple[str, ...]
    items: int
    code: bool
    blank: bool


def read_reply(reply: str) -> Reading:
    """Clean a reply and cut it into sentences; of a long one only the first 4,000 and the last 1,000 characters are read.

    A model's thoughts in ``<think>`` tags, a leading role name, control characters and markdown's emphasis are no part of what it says;
    thoughts that never end leave nothing said.
    """
    if (thought := _THOUGHT.match(reply)) is not None:
        reply = reply[thought.end() :]
    if len(reply) > _HEAD + _TAIL:
        reply = reply[:_HEAD] + "\n" + reply[-_TAIL:]
    text = _INVISIBLE.sub(" ", reply).translate(_PUNCTUATION)
    if (role := _ROLE.match(text)) is not None:
        text = text[role.end() :]
    text = _EMPHASIS.sub("", text).strip()
    code = "```" in text
    if code:
        text = _CODE.sub("\n", text)
    spans = _sentence_spans(hidden := _QUOTATION.sub(_hide, text))
    if len(spans) > _MOST_SENTENCES:
        spans = spans[: _MOST_SENTENCES - _LAST_SENTENCES] + spans[-_LAST_SENTENCES:]
    sentences = [" ".join(hidden[start:end].replace(_HIDDEN, "").lower().split()) for start, end in spans]
    originals = [" ".join(text[start:end].split()) for start, end in spans]
    return Reading(tuple(sentences), tuple(originals), len(_ITEM.findall(text)), code, blank=not text and not code)


def _sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text are; what has no letter is none, and what is very long is cut off."""
    starts, ends = [0], []
    for gap in _BREAK.finditer(text):
        ends.append(gap.start())
        starts.append(gap.end())
    ends.append(len(text))
    spans = ((start, min(end, start + _LONGEST_SENTENCE)) for start, end in zip(starts, ends, strict=True))
    return [(start, end) for start, end in spans if _LETTER.search(text, start, end) or _HIDDEN in text[start:end]]


def _hide(quotation: re.Match[str]) -> str:
    """A word or two in quotation marks are the writer's own; more are somebody's speech, such as a character's who refuses."""
    words = quotation[0][1:-1]
    if words.count(" ") < 3:
        return " " + words + " "
    return _HIDDEN * (len(words) + 1) + (words[-1] if words[-1] in ".!?…" else _HIDDEN)
