"""Read conversations to fine-tune on: one ``{"messages": [...]}`` a line, or the rows of a data set on the hub.

Knows files, the hub and messages; knows nothing of tokenizers, records or models.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from logging import ERROR
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mogu.data.records import Message
from mogu.data.rows import TableRow, jsonl_rows, without_nulls
from mogu.data.text_digests import first_equals, text_digests
from mogu.errors import ConfigError, DataError
from mogu.files.disk_list import DiskList, pick


class Chat(BaseModel):
    """A conversation to learn from.

    Args:
        id: where it comes from, for error messages.
        messages: its turns, at least one of them the assistant's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    messages: tuple[Message, ...] = Field(min_length=1)

    @property
    def conversation(self) -> list[dict[str, str]]:
        """Its turns, as chat templates take them."""
        return [message.model_dump() for message in self.messages]


def read_chats(path: Path, *, column: str = "messages", ignored: Collection[str] = (), limit: int | None = None) -> Sequence[Chat]:
    """Read the conversations of a JSONL file; they are on the disk, and read from there each time.

    Args:
        path: the file.
        column: the field that holds the messages.
        ignored: other fields that rows may have, besides ``id``.
        limit: read only this many conversations, from the beginning; ``None`` reads all.

    Raises:
        DataError: the file is missing or empty, or a row has no messages, no turn of the assistant, or unknown fields.
    """
    return _chats(str(path), jsonl_rows(path), column, ignored, limit)


def hub_chats(
    name: str, *, split: str = "train", column: str = "messages", ignored: Collection[str] = (), limit: int | None = None
) -> Sequence[Chat]:
    """Read the conversations of a data set on the hub, or of a folder that ``datasets`` can read; see :func:`read_chats`.

    Raises:
        ConfigError: ``datasets`` is not installed.
        DataError: the data set cannot be loaded, or has rows that cannot be used.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ConfigError(
            "datasets is not installed",
            expected="datasets, to read a data set from the hub",
            action="pip install 'mogu[eval]', or give a .jsonl file",
        ) from error
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(ERROR)  # otherwise each of its attempts logs a warning before our one error says what to do
    try:
        table = load_dataset(name, split=split)
    except Exception as error:  # the hub's client passes on whatever its layers raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"The data set {name} could not be loaded: {reason}",
            expected="a .jsonl file, or a data set on the hub that this machine can reach, with such a split",
            action="check name and split, log in to the hub if the set is gated, or give a file",
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    return _chats(f"{name} ({split})", (TableRow(number, row) for number, row in enumerate(table, 1)), column, ignored, limit)


def split_chats(chats: Sequence[Chat], share: float, seed: int) -> tuple[Sequence[Chat], Sequence[Chat]]:
    """Split off a random share of the chats: return the others and that share; equal conversations stay together.

    Raises:
        DataError: there are fewer than two different conversations.
    """
    group_of = first_equals(text_digests("\0".join(f"{turn.role}\0{turn.content}" for turn in chat.messages) for chat in chats))
    groups = array("Q", (index for index, group in enumerate(group_of) if index == group))
    if len(groups) < 2:
        raise DataError(
            f"There is only {len(groups)} different conversation",
            expected="at least two: one to learn from, one to hold out",
            action="give more of them, or a file of held-out ones as data.dev",
        )
    random.Random(f"{seed}:chats").shuffle(groups)
    held_out = bytearray(len(chats))
    for group in groups[: max(1, round(share * len(groups)))]:
        held_out[group] = 1
    others, those = (pick(chats, (index for index, group in enumerate(group_of) if held_out[group] == held)) for held in (0, 1))
    return others, those


def _chats(source: str, rows: Iterable[TableRow], column: str, ignored: Collection[str], limit: int | None) -> Sequence[Chat]:
    chats = DiskList(_chat(source, row, column, {column, "id", *ignored}) for row in islice(rows, limit))
    if not chats:
        raise DataError(f"{source} holds no conversation", expected="at least one", action="check how it was made")
    return chats


def _chat(source: str, row: TableRow, column: str, known: Collection[str]) -> Chat:
    location = f"{source}, row {row.line}"
    fields = without_nulls(row.fields)
    if column not in fields:
        raise DataError(
            f"{location}, has no column {column!r}; it has {', '.join(map(repr, fields)) or 'none'}",
            expected='one {"messages": [{"role": …, "content": …}, …]} a row',
            action="name the column that holds the messages, as data.messages_column, or convert the rows",
        )
    unknown = [name for name in fields if name not in known]
    if unknown:
        raise DataError(
            f"{location}, has columns that training would ignore: {', '.join(map(repr, unknown))}",
            expected=f"only {column!r}, and perhaps 'id'",
            action="drop them, or name them in data.ignored_columns if training may ignore them",
        )
    messages = _messages(location, fields, column)
    if not any(message.role == "assistant" for message in messages):
        raise DataError(
            f"{location}, has no turn of the assistant",
            expected="at least one, because training learns from nothing else",
            action="drop the row, or give it an answer",
        )
    return Chat(id=f"row {row.line}", messages=messages)


def _messages(location: str, fields: Mapping[str, object], column: str) -> tuple[Message, ...]:
    try:
        chat = Chat.model_validate({"id": location, "messages": fields[column]})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join([column, *map(str, first["loc"][1:])])
        raise DataError(
            f"{location}, field {field!r}: {first['msg'].removeprefix('Value error, ')}",
            expected="a list of messages, each with a role (system, user or assistant) and its content as text",
            action="correct or drop the row",
        ) from error
    return chat.messages
