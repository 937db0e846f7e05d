"""The `tendency` wrapper: a user's own benign instructions that the model strongly affirms, before and after the prompt under test.

A model that has just read what it likes to answer leans to answer the next thing too; how far a defense holds then is what is measured.
Composes a user's texts and writes none of its own. Knows lists and ``tendency.json``; knows nothing of models.
"""

from __future__ import annotations

from pathlib import Path

from mogu.analysis.tendency_ranking import FORMAT
from mogu.data import PromptTemplate, read_instructions
from mogu.data.templates import PLACEHOLDERS
from mogu.errors import DataError
from mogu.files.text_files import parse_json, read_whole

PREFIX = "tendency="
"""What stands before the file where jailbreaks are named."""

COUNT = 4
"""How many instructions are placed around a prompt, half of them before it."""

_MAX_BYTES = 1 << 28


def tendency_wrapper(jailbreaks: str | None) -> PromptTemplate | None:
    """The wrapper that ``"tendency=FILE"`` asks for; ``None`` where something else is asked for.

    ``FILE`` is a ``tendency.json``, of which the benign instructions that lean to affirm most are taken, or a list of
    instructions (``.txt``, ``.csv``, ``.jsonl``), of which the first are: benign ones, and the user answers for that.

    Raises:
        DataError: the file cannot be used, holds too few instructions, or one that holds the mark of the request's place.
    """
    if jailbreaks is None or not jailbreaks.startswith(PREFIX):
        return None
    path = Path(jailbreaks.removeprefix(PREFIX)).expanduser()
    texts = list(dict.fromkeys(_ranked(path) if path.suffix.lower() == ".json" else (one.text for one in read_instructions(path))))[:COUNT]
    if len(texts) < COUNT:
        raise DataError(
            f"{path} holds {len(texts)} benign instructions",
            expected=f"at least {COUNT} different ones; in a tendency.json those with the label 'benign'",
            action="rank more with `mogu tendency`, from a file with labels, or give a longer list",
        )
    if marked := next((text for text in texts if PLACEHOLDERS[0] in text), None):
        raise DataError(
            f"{path} has an instruction with {PLACEHOLDERS[0]} in it: {marked[:60]!r}",
            expected="instructions without the mark of a request's place",
            action="leave it out",
        )
    return PromptTemplate("tendency", "adversarial", "\n\n".join([*texts[: COUNT // 2], PLACEHOLDERS[0], *texts[COUNT // 2 :]]))


def _ranked(path: Path) -> list[str]:
    try:
        told = parse_json(read_whole(path, _MAX_BYTES))
        if told["format"] != FORMAT:
            raise ValueError(f"is of format {told['format']!r}")
        benign = [(float(row["tendency"]), str(row["instruction"])) for row in told["instructions"] if row["label"] == "benign"]
    except (ValueError, TypeError, KeyError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{path} is no tendency.json of this version: {reason}",
            expected="what `mogu tendency` wrote",
            action="rank the instructions anew",
        ) from error
    return [text for _, text in sorted(benign, key=lambda row: -row[0])]
