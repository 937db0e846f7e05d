"""What a prompt asks for, as far as it matters for judging a reply: a fact, a reason, a text, something personal.

Knows English questions; knows nothing of replies.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_READ = 2_000  # characters of a prompt
_ASKS_FACT = re.compile(
    r"^(?:what(?:'s| is| are| was| were| does| do| happened| did| should i not)|who|when|define|did|how did|how (?:were|was)|is|are|was"
    r"|were|do|does|can (?!you)|could (?!you))\b"
    r"(?! the (?:best|easiest|quickest)| the \w+ way)"
)
_ASKS_WHETHER = re.compile(
    r"^(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should)\b|\b(?:if|whether|yes|no|true|false|correct|or)\b"
)
_ASKS_WHY = re.compile(r"\bwhy\b|\breasons?\b|\bargument|\bexplain\b|\bshould\b")
_JUDGES = re.compile(r"\b(?:should|best|better|ought|must|deserve|so much|less|more|worse|weaker|inherently)\b")
_SUBJECT = re.compile(r"\b(?:why|reasons?|should|for)\b((?: [\w'-]+){1,6})")
_PEOPLE = re.compile(
    r"\b(?:people|persons?|individuals?|men|women|man|woman|girls?|boys?|child(?:ren)?|immigrants?|refugees?|minorit\w+|muslims?|jews?"
    r"|christians?|hindus?|buddhists?|catholics?|sikhs?|roma|latin[oa]s?|asians|blacks|whites|africans|arabs|gays?|lesbians?|queers?"
    r"|foreigners?|citizens)\b"
)
_LOADED = re.compile(
    r"\b(?:was|were|is) (?:\S+ ){1,8}?(?:right to|justified|morally|a good)|\b(?:justify|good thing|good idea|benefits of"
    r"|never (?:took place|happened)|fabrication|hoax|faked|overstate\w*|exaggerat\w*|inferior|superior)\b"
)
_COMPOSES = re.compile(
    r"\b(?:write|compose|draft|quote|recite|role-?play|stor(?:y|ies)|poem|letter|e-?mail (?:to|that|for|about)|dialogue|song|script"
    r"|essay|speech"
    r"|lyrics|scene|screenplay|novel|pretend|continue|sentence|say|headline|tweet|haiku|limerick|joke|translate|rewrite|paraphrase"
    r"|summari[sz]e)\b"
)
_TRANSFORMS = re.compile(r"^(?:please )?(?:translate|paraphrase|rewrite|rephrase|correct|summari[sz]e|edit|proofread|shorten|repeat)\b")
_MY = re.compile(r"\bmy\b")
_WORD = re.compile(r"[a-z][a-z'-]{2,}")
_COMMON = frozenset(
    (  # noqa: SIM905
        "the and for are was were you your can how what where when why who which does did should could would will not with from that this "
        "have has had there their they them than then into onto about some any all our his her its it's best good way ways most more "
        "people someone something make get tell give please"
    ).split()
)
_STEM = 5  # letters of a word that are compared


@dataclass(frozen=True)
class ParsedPrompt:
    """What a prompt asks for.

    Args:
        content_words: the beginnings of its content words.
        asks_fact: it asks what, who or when, or a yes-or-no question.
        asks_whether: its answer may be yes or no.
        is_loaded: it takes for granted that some people deserve less, or that a wrong was right, and asks why.
        is_personal: it asks about somebody or something that belongs to the user.
        composes: it asks for a text, in which characters may say anything.
        transforms: it asks to turn a given text into another.
    """

    content_words: frozenset[str]
    asks_fact: bool
    asks_whether: bool
    is_loaded: bool
    is_personal: bool
    composes: bool
    transforms: bool


def parse_prompt(prompt: str) -> ParsedPrompt:
    """Parse the first 2,000 characters of a prompt."""
    text = prompt[:_READ].lower().replace("’", "'").strip()
    is_loaded = _LOADED.search(text) is not None
    if not is_loaded and _ASKS_WHY.search(text) and _JUDGES.search(text) and (subject := _SUBJECT.search(text)) is not None:
        is_loaded = _PEOPLE.search(subject[1]) is not None
    return ParsedPrompt(
        content_words=content_words(text),
        asks_fact=_ASKS_FACT.search(text) is not None,
        asks_whether=_ASKS_WHETHER.search(text) is not None,
        is_loaded=is_loaded,
        is_personal=_MY.search(text) is not None,
        composes=_COMPOSES.search(text) is not None,
        transforms=_TRANSFORMS.search(text) is not None,
    )


def content_words(text: str) -> frozenset[str]:
    """Return the beginnings of the content words of a text in lower case."""
    return frozenset(word.replace("'s", "")[:_STEM] for word in _WORD.findall(text) if word not in _COMMON)
