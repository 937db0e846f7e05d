"""From records to token ids: a prompt and the answers to learn, of each record in turn, and kept on the disk.

Knows tokenizers and records; knows nothing of batches, models or losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from mogu.data import Record, conversation_of, naming_record
from mogu.errors import ModelFileError, RecordError
from mogu.files.disk_list import DiskList
from mogu.inference.prompts import encode_answer, encode_prompt


@dataclass(frozen=True)
class Example:
    """One prompt with one answer (router) or two (responders: the one to learn comes first).

    Args:
        record_id: the record it comes from, for error messages.
        prompt: token ids of the prompt.
        answers: token ids of each answer.
        malicious: the record's label.
    """

    record_id: str
    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    malicious: bool

    def __len__(self) -> int:
        return len(self.prompt) + sum(len(answer) for answer in self.answers)


@dataclass(frozen=True)
class TurnsExample:
    """A conversation in which every turn of the assistant is learned.

    Args:
        record_id: the conversation it comes from, for error messages.
        ids: token ids, prompt and turns.
        learned: indices in ``ids`` of the tokens that are learned, in increasing order; the first is at least 1.
    """

    record_id: str
    ids: tuple[int, ...]
    learned: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


AnyExample = Example | TurnsExample


def responder_examples(
    tokenizer: PreTrainedTokenizerBase, records: Sequence[Record], *, answer: str, max_length: int, system_prompt: str | None = None
) -> Sequence[Example]:
    """Encode pairs for a responder: each prompt with the answer to learn (``"affirm"`` or ``"reject"``), then the other one."""
    order = ("affirm", "reject") if answer == "affirm" else ("reject", "affirm")
    return DiskList(_example(tokenizer, record, order, max_length, system_prompt) for record in records)


def router_examples(
    tokenizer: PreTrainedTokenizerBase, records: Sequence[Record], *, max_length: int, system_prompt: str | None = None
) -> Sequence[Example]:
    """Encode what the router learns: benign prompts with the affirmative answer, malicious ones with the rejecting one."""
    answers = {"benign": ("affirm",), "malicious": ("reject",)}
    return DiskList(_example(tokenizer, record, answers[record.label], max_length, system_prompt) for record in records)


def check_embedded(tokenizer: PreTrainedTokenizerBase, rows: int, encoded: Iterable[tuple[str, Sequence[int]]]) -> None:
    """Refuse tokens that a model has no embedding of.

    Args:
        tokenizer: for their names.
        rows: of the embedding.
        encoded: token ids, each with the name of what they are of.

    Raises:
        ModelFileError: one of them is beyond the embedding.
    """
    for name, ids in encoded:
        highest = max(ids, default=0)
        if highest >= rows:
            token = tokenizer.convert_ids_to_tokens(highest)
            raise ModelFileError(
                f"The {name} has the token {token!r} ({highest}), and the model an embedding of {rows} tokens",
                expected="a tokenizer whose tokens the model knows",
                action="take the tokenizer that belongs to the model, or resize its embedding (resize_token_embeddings in transformers), "
                "train the new rows, and save both; if only the chat template writes that token, give another as model.chat_template",
            )


def room_for_answer(record: Record, prompt: Sequence[int], max_length: int) -> int:
    """How many tokens of an answer fit behind a prompt.

    Raises:
        RecordError: none do.
    """
    room = max_length - len(prompt)
    if room < 1:
        raise RecordError(
            f"The prompt of record {record.id!r} has {len(prompt)} tokens",
            expected=f"fewer than max_length = {max_length}, so that an answer fits",
            action="shorten or drop the record, or raise run.max_length",
            record_id=record.id,
        )
    return room


def _example(
    tokenizer: PreTrainedTokenizerBase, record: Record, fields: Sequence[str], max_length: int, system_prompt: str | None
) -> Example:
    conversation = conversation_of(record, system_prompt)
    with naming_record(record.id):
        prompt = encode_prompt(tokenizer, conversation)
        room = room_for_answer(record, prompt, max_length)
        # A malicious affirmative is only an opening: nothing may teach the model that the answer ends there.
        closed = {field: not (record.label == "malicious" and field == "affirm") for field in fields}
        answers = [encode_answer(tokenizer, conversation, getattr(record, field), closed=closed[field])[:room] for field in fields]
    if not all(answers):
        raise RecordError(
            f"An answer of record {record.id!r} has no tokens", expected="text", action="correct or drop the record", record_id=record.id
        )
    return Example(record.id, tuple(prompt), tuple(map(tuple, answers)), record.label == "malicious")
