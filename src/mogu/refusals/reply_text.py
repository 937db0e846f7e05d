"""Prepare a reply for judging: bound its length, clean it, split it into sentences, set code and quoted speech aside.

Knows text in general; knows nothing of refusals.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mogu.inference.thoughts import without_thoughts

_HEAD = 4_000  # characters read from the beginning of a reply
_TAIL = 1_000  # characters read from its end
_LONGEST_SENTENCE = 400
_MOST_SENTENCES = 48
_LAST_SENTENCES = 8
_BEFORE_NEXT_TURN = 20  # characters of a reply before a turn that the model makes up for the user; a dialogue that was asked for begins so
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]+")
_PUNCTUATION = str.maketrans(dict.fromkeys("’‘ʼ´", "'") | dict.fromkeys("“”„«»「」『』", '"') | {"\u00a0": " "})
_ROLE = re.compile(r"\s*(?:<\|?[\w| ]{1,40}\|?>\s*){0,3}(?:\"?(?:assistant|response|answer|ai|bot|model)\s*:\s*)?", re.IGNORECASE)
_LETTER_FORM = re.compile(r"(?:subject|re|betreff)\s?:|(?:dear|to whom|hi|hello|hey)\b[^.!?\n]{0,40},\s?\n|dear\b", re.IGNORECASE)
_NEXT_TURN = re.compile(r"(?<=[\w.!?\"')])\s*(?:###? ?)?\b(?:user|human|instruction)\s?:", re.IGNORECASE)
_CODE = re.compile(r"```[^`]{0,4000}(?:```|\Z)")
_QUOTATION = re.compile(r'"[^"\n]{1,300}"')
_EMPHASIS = re.compile(r"[*_]{1,3}(?=\w)|(?<=[\w.,:!?])[*_]{1,3}")
_ITEM = re.compile(r"^[ \t]*(?:\d{1,2}[.):]|[-*•–●▪]|[a-z][.)]|step \d{1,2}\b)[ \t]*(?=\S)", re.IGNORECASE | re.MULTILINE)
_BREAK = re.compile(r"(?<=[.!?…])\s+|(?<=[.!?…][\"')\]])\s+|(?<=[。！？।۔])\s*|\s*\n\s*")
_HIDDEN = "\x1f"  # replaces each character of quoted speech; control characters have been removed by then
_LETTER = re.compile(r"\w")


@dataclass(frozen=True)
class ParsedReply:
    """The parts of a reply that are judged.

    Args:
        sentences: the sentences of its beginning and end, in lower case, without code and quoted speech.
        originals: the same sentences as the reply has them, with clean white space and no invisible characters.
        list_items: how many items its lists have.
        has_code: whether it holds a block of code.
        is_letter: whether it has the form of a letter: a subject or a salutation comes first.
        is_quotation: whether all of it stands between quotation marks.
        is_blank: whether nothing in it is visible, not even a symbol.
    """

    sentences: tuple[str, ...]
    originals: tuple[str, ...]
    list_items: int
    has_code: bool
    is_letter: bool
    is_quotation: bool
    is_blank: bool


def clean(reply: str) -> str:
    """What a reply says aloud, in clean characters; of a long one only the first 4,000 and the last 1,000 of them.

    A model's thoughts, a leading role name, turns that it makes up for the user, control characters and Markdown's emphasis are not part
    of it. Thoughts that never end leave nothing.
    """
    reply = without_thoughts(reply)
    if len(reply) > _HEAD + _TAIL:
        reply = reply[:_HEAD] + "\n" + reply[-_TAIL:]
    text = _INVISIBLE.sub(" ", reply).translate(_PUNCTUATION)
    if (role := _ROLE.match(text)) is not None:
        text = text[role.end() :]
    if (next_turn := _NEXT_TURN.search(text, _BEFORE_NEXT_TURN)) is not None:
        text = text[: next_turn.start()]
    return _EMPHASIS.sub("", text).strip()


def parse_reply(text: str) -> ParsedReply:
    """Split a reply, or what one voice in it says, into sentences.

    Args:
        text: cleaned, and of bounded length.
    """
    text = text.strip()
    is_quotation = len(text) > 1 and text.count('"') == 2 and text[0] == text[-1] == '"'
    if is_quotation:
        text = text[1:-1].strip()
    has_code = "```" in text
    if has_code:
        text = _CODE.sub("\n", text)
    spans = _sentence_spans(hidden := _QUOTATION.sub(_hide, text))
    if len(spans) > _MOST_SENTENCES:
        spans = spans[: _MOST_SENTENCES - _LAST_SENTENCES] + spans[-_LAST_SENTENCES:]
    sentences = [" ".join(hidden[start:end].replace(_HIDDEN, "").lower().split()) for start, end in spans]
    originals = [" ".join(text[start:end].split()) for start, end in spans]
    list_items = len(_ITEM.findall(text))
    return ParsedReply(
        tuple(sentences),
        tuple(originals),
        list_items,
        has_code,
        is_letter=_LETTER_FORM.match(text) is not None,
        is_quotation=is_quotation,
        is_blank=not text and not has_code,
    )


def _sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return where the sentences of a text start and end; a span without a letter is not a sentence, and long ones are cut off."""
    starts, ends = [0], []
    for gap in _BREAK.finditer(text):
        ends.append(gap.start())
        starts.append(gap.end())
    ends.append(len(text))
    spans = ((start, min(end, start + _LONGEST_SENTENCE)) for start, end in zip(starts, ends, strict=True))
    return [(start, end) for start, end in spans if _LETTER.search(text, start, end) or _HIDDEN in text[start:end]]


def _hide(quotation: re.Match[str]) -> str:
    """Hide quoted speech, such as that of a character who refuses; up to three quoted words count as the writer's own."""
    words = quotation[0][1:-1]
    if words.count(" ") < 3:
        return " " + words + " "
    return _HIDDEN * (len(words) + 1) + (words[-1] if words[-1] in ".!?…" else _HIDDEN)
