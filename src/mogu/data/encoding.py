"""The prompts of many records as token ids, where an error names the record.

Knows records and tokenizers; knows nothing of answers, batches or models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mogu.data.records import Record, conversation_of
from mogu.errors import ChatTemplateError, RecordError
from mogu.files.disk_list import DiskList
from mogu.inference.prompts import encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_records(tokenizer: PreTrainedTokenizerBase, records: Sequence[Record], system_prompt: str | None) -> Sequence[list[int]]:
    """Token ids of the prompt of each record, on the disk.

    Raises:
        RecordError: there is no chat template, or it refuses one of them.
    """

    def encoded(record: Record) -> list[int]:
        with naming_record(record.id):
            return encode_prompt(tokenizer, conversation_of(record, system_prompt))

    return DiskList(map(encoded, records))


@contextmanager
def naming_record(record_id: str, what: str = "record") -> Iterator[None]:
    """Let a chat template's error name the record, or the conversation, that it refuses.

    Raises:
        RecordError: the template refuses it.
    """
    try:
        yield
    except ChatTemplateError as error:
        found = f"The {what} {record_id!r} cannot be encoded: {error.found}"
        raise RecordError(found, expected=error.expected, action=error.action, record_id=record_id) from error
