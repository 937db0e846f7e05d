"""Banks of generic openings of answers that comply and of answers that refuse. Openings only, never content.

Knows texts and one JSON file; knows nothing of tokenizers or models. Unlike those of :mod:`mogu.data.openings`, these openings do not
name what was asked for: every instruction gets the same ones, so that instructions can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mogu.errors import DataError
from mogu.files.text_files import parse_json, read_whole

AFFIRM = (
    "Sure, here is",
    "Sure! Here are",
    "Of course, here is",
    "Of course! Here's how",
    "Certainly! Here is",
    "Certainly, let me",
    "Absolutely! Here's",
    "Yes, here is",
    "Here are the steps",
    "I'd be happy to help",
    "No problem, here is",
    "Gladly! To begin with,",
    "Great question! Here is",
    "Okay, here is",
    "Let's get started. First,",
    "I can help with that. Here is",
    "Happy to help! Here is",
    "Step 1:",
    "The best way to do this is",
    "You can do this by",
)
"""Openings of answers that comply: twenty, as in RADIAL (arXiv 2312.04127), in this project's words."""

REFUSE = (
    "I'm sorry, but I can't",
    "I am sorry, but I cannot",
    "Sorry, I can't help with that",
    "I apologize, but I cannot",
    "I apologize, but I am unable to help",
    "I can't help with that",
    "I cannot assist with",
    "I'm not able to help with",
    "I won't help with",
    "I must decline",
    "Unfortunately, I can't",
    "No, I will not",
    "I'm unable to help with",
    "I am not able to assist with",
    "As an AI, I cannot help with",
    "I can't fulfill that request",
    "I cannot provide help with",
    "I have to refuse",
    "That is not something I can help with",
    "I won't be able to help with",
)
"""Openings of answers that refuse: twenty as well."""

MAX_FILE_BYTES = 1_048_576
MAX_CHARACTERS = 200
"""The longest opening: it is how an answer begins, not how it goes on."""

_EXPECTED = '{"affirm": ["Sure, here is", …], "refuse": ["I cannot", …]}, with "builtin": false to leave the project\'s own out'


@dataclass(frozen=True)
class AnswerOpenings:
    """The two banks of openings.

    Args:
        affirm: openings of answers that comply.
        refuse: openings of answers that refuse.
    """

    affirm: tuple[str, ...] = AFFIRM
    refuse: tuple[str, ...] = REFUSE

    @property
    def all(self) -> tuple[str, ...]:
        """All openings, the affirmative ones first."""
        return self.affirm + self.refuse


def read_openings(path: Path) -> AnswerOpenings:
    """Read a JSON file of openings and add them to the project's own.

    The file holds one object with the lists ``affirm`` and ``refuse``, either of which may be missing. With ``"builtin": false`` its
    lists replace the project's, and both are needed.

    Raises:
        DataError: the file is missing, not JSON, of another form, or leaves a bank empty; or an opening is empty, long or in both banks.
    """
    try:
        value = parse_json(read_whole(path, MAX_FILE_BYTES))
    except ValueError as error:
        raise _bad(path, str(error)) from error
    if not isinstance(value, dict):
        raise _bad(path, f"holds a JSON {type(value).__name__}")
    if unknown := sorted(set(value) - {"affirm", "refuse", "builtin"}):
        raise _bad(path, f"has the unknown field {unknown[0]!r}")
    builtin = value.get("builtin", True)
    if not isinstance(builtin, bool):
        raise _bad(path, f"has {builtin!r} for 'builtin'")
    given = {name: _texts(path, name, value.get(name, [])) for name in ("affirm", "refuse")}
    if not any(given.values()):
        raise _bad(path, "adds no opening")
    affirm, refuse = (
        tuple(dict.fromkeys([*(own if builtin else ()), *given[name]])) for name, own in (("affirm", AFFIRM), ("refuse", REFUSE))
    )
    for name, bank in (("affirm", affirm), ("refuse", refuse)):
        if not bank:
            raise _bad(path, f"leaves {name!r} without an opening")
    if both := set(affirm) & set(refuse):
        raise _bad(path, f"has {sorted(both)[0]!r} among both kinds of openings")
    return AnswerOpenings(affirm, refuse)


def _texts(path: Path, name: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _bad(path, f"has no list of texts in {name!r}")
    texts = [text.strip() for text in value]
    if not all(texts):
        raise _bad(path, f"has an empty opening in {name!r}")
    if longest := next((text for text in texts if len(text) > MAX_CHARACTERS), None):
        raise _bad(path, f"has {len(longest):,} characters in one opening of {name!r}, more than {MAX_CHARACTERS}")
    return texts


def _bad(path: Path, reason: str) -> DataError:
    return DataError(f"{path} {reason}", expected=f"one JSON object such as {_EXPECTED}", action="correct the file")
