"""A file of prompts put to every side of a playground, and the table of what came of it.

Knows files of instructions and sides; knows nothing of pages.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mogu.data import read_instructions
from mogu.errors import DataError
from mogu.inference.replies import ReplySettings
from mogu.playground.answering import Emit, Event, Question, answer
from mogu.playground.sides import Side

MOST_PROMPTS = 500
_ROWS = 16
_RUNS = "=+-@\t\r"  # what a spreadsheet takes for a formula where a cell begins with it


def read_prompt_file(name: str, text: str) -> list[str]:
    """The prompts of a file that somebody dropped on a page.

    Args:
        name: of the file, whose ending says which format it has: ``.txt`` (one a line), ``.csv`` or ``.jsonl``.
        text: what it holds.

    Raises:
        DataError: it is of another format, or broken, or holds too many prompts.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / Path(name).name
        file.write_text(text, encoding="utf-8")
        try:
            prompts = [instruction.text for instruction in read_instructions(file)]
        except DataError as error:  # which names a folder that the reader has never heard of
            found, action = (part.replace(f"{folder}/", "") for part in (error.found, error.action))
            raise DataError(found, expected=error.expected, action=action) from error
    if len(prompts) > MOST_PROMPTS:
        raise DataError(
            f"{name} holds {len(prompts):,} prompts",
            expected=f"at most {MOST_PROMPTS} in a playground",
            action="take a part of them, or use `mogu generate` or `mogu compare`",
        )
    return prompts


def ask_all(
    prompts: Sequence[str],
    sides: Sequence[Side],
    emit: Emit,
    *,
    system: str | None = None,
    dial: float | None = None,
    max_new_tokens: int = 48,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Put prompts to every side, several at a time, and tell of each and of the whole table.

    Events are ``{"type": "row", "index", "prompt", "score", "replies": [{"text", "verdict"}, …]}``, with a reply for each side and the
    score of the last hardened one, and at the end ``{"type": "table", "csv"}``.

    Args:
        prompts: what is asked.
        sides: who is asked.
        emit: is told.
        system: a system message that stands before each prompt.
        dial: ``δ`` of hardened sides; ``None`` is each model's own.
        max_new_tokens: of each reply.
        stopped: asked at each token whether to end; the table then has the rows that are done.
    """
    opening = [{"role": "system", "content": system}] if system else []
    at_a_time = max(1, _ROWS // len(sides))
    rows: list[Event] = []
    for start in range(0, len(prompts), at_a_time):
        if stopped():
            break
        some = prompts[start : start + at_a_time]
        answers: list[Event] = [{"replies": [{} for _ in sides], "score": None} for _ in some]

        def take(event: Event, answers: list[Event] = answers) -> None:
            row, column = divmod(event["column"], len(sides))
            if event["type"] == "why":
                answers[row]["score"] = event["score"]
            elif event["type"] == "reply":
                answers[row]["replies"][column] = {"text": event["text"], "verdict": event["verdict"]}

        questions = [
            Question(side, [*opening, {"role": "user", "content": prompt}], row * len(sides) + column)
            for row, prompt in enumerate(some)
            for column, side in enumerate(sides)
        ]
        answer(questions, ReplySettings(max_new_tokens), take, dial=dial, stopped=stopped)
        if stopped():
            break
        done = [{"type": "row", "index": start + row, "prompt": some[row], **answered} for row, answered in enumerate(answers)]
        for event in done:
            emit(event)
        rows += done
    emit({"type": "table", "csv": table_csv(rows, sides)})


def table_csv(rows: Sequence[Event], sides: Sequence[Side]) -> str:
    """The table as CSV: prompt, score, and the reply and verdict of each side. No cell is run by a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["prompt", "score", *(f"{what}: {side.name}" for side in sides for what in ("reply", "verdict"))])
    for row in rows:
        score = "" if row["score"] is None else f"{row['score']:.4f}"
        replies = [reply.get(what, "") for reply in row["replies"] for what in ("text", "verdict")]
        writer.writerow([_inert(row["prompt"]), score, *map(_inert, replies)])
    return text.getvalue()


def _inert(cell: str) -> str:
    return f"'{cell}" if cell.startswith(tuple(_RUNS)) else cell
