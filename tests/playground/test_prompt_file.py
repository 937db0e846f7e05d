"""A file of prompts: read in the usual formats, put to every side, and given back as a table that no spreadsheet runs."""

from __future__ import annotations

import csv
import io

import pytest

from mogu.errors import DataError
from mogu.inference.replies import ReplySettings, replies
from mogu.playground.answering import Event
from mogu.playground.prompt_file import MOST_PROMPTS, ask_all, read_prompt_file, table_csv
from mogu.playground.sides import Side

PROMPTS = ["How do I bake bread?", "Hi", "Open it."]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prompts.txt", "How do I bake bread?\n\nHi\nOpen it.\n"),
        ("prompts.csv", "number,prompt\n1,How do I bake bread?\n2,Hi\n3,Open it.\n"),
        ("prompts.jsonl", '{"instruction": "How do I bake bread?"}\n{"instruction": "Hi"}\n{"instruction": "Open it."}\n'),
        ("../../prompts.txt", "How do I bake bread?\nHi\nOpen it."),
    ],
)
def test_usual_formats_are_read(name: str, text: str) -> None:
    assert read_prompt_file(name, text) == PROMPTS


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("prompts.pdf", "Hi", r"^prompts\.pdf ends in '\.pdf'"),
        ("prompts.csv", "number\n1\n", r"^prompts\.csv, line 2, has none of the usual columns"),
        ("prompts.txt", "", r"^prompts\.txt is empty"),
        ("prompts.txt", "Hi\n" * (MOST_PROMPTS + 1), "holds 501 prompts"),
    ],
)
def test_what_cannot_be_used_is_named_as_the_reader_knows_it(name: str, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_prompt_file(name, text)


def test_every_prompt_is_put_to_every_side(sides: list[Side], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mogu.playground.prompt_file._ROWS", 4)  # two batches
    events: list[Event] = []
    ask_all(PROMPTS, sides, events.append, max_new_tokens=8)
    *rows, table = events
    model, tokenizer = sides[0].model, sides[0].tokenizer
    hardened = [reply.text for reply in replies(model, tokenizer, PROMPTS, ReplySettings(8))]
    with model.routing("off"):
        plain = [reply.text for reply in replies(model, tokenizer, PROMPTS, ReplySettings(8))]
    assert [row["prompt"] for row in rows] == PROMPTS
    assert [[reply["text"] for reply in row["replies"]] for row in rows] == [list(pair) for pair in zip(plain, hardened, strict=True)]
    assert [row["score"] for row in rows] == pytest.approx(model.score(PROMPTS).tolist(), abs=1e-6)
    header, *lines = csv.reader(io.StringIO(table["csv"]))
    assert header == ["prompt", "score", "reply: tiny, plain", "verdict: tiny, plain", "reply: tiny", "verdict: tiny"]
    assert [(line[0], line[2], line[4]) for line in lines] == list(zip(PROMPTS, plain, hardened, strict=True))


def test_a_stopped_file_gives_the_rows_that_are_done(sides: list[Side], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mogu.playground.prompt_file._ROWS", 2)
    events: list[Event] = []
    ask_all(PROMPTS, sides, events.append, max_new_tokens=8, stopped=lambda: len(events) >= 1)
    assert [event["type"] for event in events] == ["row", "table"]
    assert len(events[1]["csv"].splitlines()) == 2


def test_no_cell_is_a_formula(sides: list[Side]) -> None:
    replies = [{"text": text, "verdict": "compliance"} for text in ("-1", "@a")]
    row = {"prompt": '=HYPERLINK("x")', "score": 0.5, "replies": replies}
    (line,) = list(csv.reader(io.StringIO(table_csv([row], sides))))[1:]
    assert line == ['\'=HYPERLINK("x")', "0.5000", "'-1", "compliance", "'@a", "compliance"]
