"""The `tendency` wrapper: benign instructions of the user's that the model strongly tends to answer, around the prompt under test.

A model that has just read requests that it tends to answer is more likely to answer the next one too; the wrapper measures how well a
defense withstands that. It combines the user's texts and adds none. Knows lists and ``tendency.json``; knows nothing of models.
"""

from __future__ import annotations

from pathlib import Path

from mogu.analysis.tendency_ranking import FORMAT
from mogu.data import PromptTemplate, read_instructions
from mogu.data.templates import REQUEST, places_of_request
from mogu.errors import DataError
from mogu.files.text_files import parse_json, read_whole

PREFIX = "tendency="
"""Precedes the file name in options that name jailbreaks."""

COUNT = 4
"""How many instructions are put around a prompt, half of them before it."""

_MAX_BYTES = 1 << 28


def tendency_wrapper(jailbreaks: str | None) -> PromptTemplate | None:
    """Build the wrapper of ``"tendency=FILE"``; ``None`` for any other text.

    ``FILE`` is a ``tendency.json``, whose benign instructions with the highest tendency are used, or a list of instructions
    (``.txt``, ``.csv``, ``.jsonl``), whose first ones are used; that these are benign is up to the user.

    Raises:
        DataError: the file cannot be used, has too few instructions, or one that contains the placeholder of the request.
    """
    if jailbreaks is None or not jailbreaks.startswith(PREFIX):
        return None
    path = Path(jailbreaks.removeprefix(PREFIX)).expanduser()
    every = _ranked(path) if path.suffix.lower() == ".json" else [listed.text for listed in read_instructions(path)]
    texts = list(dict.fromkeys(every))[:COUNT]
    if len(texts) < COUNT:
        raise DataError(
            f"{path} has {len(texts)} benign instructions",
            expected=f"at least {COUNT} different ones; in a tendency.json those with the label 'benign'",
            action="rank more with `mogu tendency`, from a file with labels, or give a longer list",
        )
    if marked := next((text for text in texts if len(places_of_request(text + REQUEST)) > 1), None):
        raise DataError(
            f"{path} has an instruction with the mark of a request in it: {marked[:60]!r}",
            expected="instructions without the placeholder of a request",
            action="leave it out",
        )
    return PromptTemplate("tendency", "adversarial", "\n\n".join([*texts[: COUNT // 2], REQUEST, *texts[COUNT // 2 :]]))


def _ranked(path: Path) -> list[str]:
    try:
        ranking = parse_json(read_whole(path, _MAX_BYTES))
        if ranking["format"] != FORMAT:
            raise ValueError(f"has format {ranking['format']!r}")
        benign = [(float(row["tendency"]), str(row["instruction"])) for row in ranking["instructions"] if row["label"] == "benign"]
    except (ValueError, TypeError, KeyError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{path} is no tendency.json of this version: {reason}",
            expected="what `mogu tendency` wrote",
            action="rank the instructions again",
        ) from error
    return [text for _, text in sorted(benign, key=lambda row: -row[0])]
