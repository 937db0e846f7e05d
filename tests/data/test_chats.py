"""Conversations to fine-tune on: what is read, and what is refused at the door."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mogu.data import Chat, Message, hub_chats, read_chats, split_chats
from mogu.errors import DataError

USER, ANSWER = {"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def rows(*some: Any) -> Path:
        (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps(one) for one in some) + "\n")
        return tmp_path / "chats.jsonl"

    return rows


def test_conversations_of_any_number_of_turns_are_read(write: Write) -> None:
    file = write({"messages": [USER, ANSWER]}, {"id": 7, "messages": [USER, ANSWER, USER, ANSWER, USER]})
    chats = read_chats(file)
    assert [[message.role for message in chat.messages] for chat in chats] == [
        ["user", "assistant"],
        ["user", "assistant", "user", "assistant", "user"],
    ]
    assert chats[1].conversation[0] == USER
    assert len(read_chats(file, limit=1)) == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [USER]}, "row 2, has no turn of the assistant"),
        ({"text": "Hello"}, "row 2, has no column 'messages'; it has 'text'"),
        ({"messages": [USER, ANSWER], "tools": []}, "row 2, has columns that training would ignore: 'tools'"),
        ({"messages": [USER, {"role": "bot", "content": "Hi."}]}, "row 2, field 'messages.1.role'"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "row 2, field 'messages.1.content': the text of a message is empty"),
        ({"messages": "Hello"}, "row 2, field 'messages'"),
        ([USER, ANSWER], "line 2, holds a JSON list"),
    ],
)
def test_a_bad_row_is_named_and_explained(write: Write, row: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_chats(write({"messages": [USER, ANSWER]}, row))
    assert words in str(caught.value)


def test_columns_to_ignore_and_to_read_can_be_named(write: Write) -> None:
    file = write({"turns": [USER, ANSWER], "tools": []})
    assert len(read_chats(file, column="turns", ignored=["tools"])) == 1


def test_null_is_no_value(write: Write) -> None:
    given = {"messages": [{**USER, "name": None, "tool_calls": None}, ANSWER], "tools": None}
    assert read_chats(write(given))[0].conversation == [USER, ANSWER]
    with pytest.raises(DataError, match="row 1, has no column 'messages'"):
        read_chats(write({"messages": None}))
    with pytest.raises(DataError, match=r"row 1, field 'messages\.0\.content'"):
        read_chats(write({"messages": [{"role": "user", "content": None}, ANSWER]}))


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="holds no conversation"):
        read_chats(tmp_path / "empty.jsonl")


def test_what_datasets_can_read_is_read_alike(write: Write, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    rows = [{"messages": [USER, ANSWER]}, {"messages": [USER, ANSWER, USER, ANSWER]}]
    folder = write(*rows).parent
    from_file, from_hub = read_chats(folder / "chats.jsonl"), hub_chats(str(folder))
    assert [chat.messages for chat in from_hub] == [chat.messages for chat in from_file]
    with pytest.raises(DataError, match="could not be loaded"):
        hub_chats(str(folder), split="validation")


def test_held_out_conversations_are_never_trained_on() -> None:
    def chat(number: int) -> Chat:
        # every conversation occurs twice
        return Chat(
            id=f"row {number}", messages=(Message(role="user", content=f"{number // 2}"), Message(role="assistant", content="Yes."))
        )

    train, dev = split_chats([chat(number) for number in range(40)], 0.2, seed=3)
    assert (len(train), len(dev)) == (32, 8)
    assert not {one.messages for one in train} & {one.messages for one in dev}
    with pytest.raises(DataError, match="only 1 different conversation"):
        split_chats([chat(0), chat(1)], 0.2, seed=3)
