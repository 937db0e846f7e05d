"""From records to token ids: a prompt and the answers to learn from.

Knows tokenizers and records; knows nothing of batches, models or losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from mogu.data import Record, conversation_of
from mogu.errors import DataError
from mogu.inference.prompts import encode_answer, encode_prompt


@dataclass(frozen=True)
class Example:
    """One prompt with one answer (router) or two (responders: the wanted one first).

    Args:
        record_id: the record it comes from, for messages.
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
        record_id: where it comes from, for messages.
        ids: token ids, prompt and turns.
        learned: the places in ``ids`` of the tokens that are learned, rising; the first is 1 at least.
    """

    record_id: str
    ids: tuple[int, ...]
    learned: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


AnyExample = Example | TurnsExample


def responder_examples(
    tokenizer: PreTrainedTokenizerBase, records: Sequence[Record], *, wanted: str, max_length: int, system_prompt: str | None = None
) -> list[Example]:
    """Pairs for a responder: each prompt with the wanted answer (``"affirm"`` or ``"reject"``), then the other one."""
    order = ("affirm", "reject") if wanted == "affirm" else ("reject", "affirm")
    return _examples(tokenizer, [(record, order) for record in records], max_length, system_prompt)


def router_examples(
    tokenizer: PreTrainedTokenizerBase, records: Sequence[Record], *, max_length: int, system_prompt: str | None = None
) -> list[Example]:
    """What the router learns: benign prompts with the affirmative answer, malicious ones with the rejecting one."""
    wanted = [(record, ("affirm",) if record.label == "benign" else ("reject",)) for record in records]
    return _examples(tokenizer, wanted, max_length, system_prompt)


def _examples(
    tokenizer: PreTrainedTokenizerBase, wanted: Sequence[tuple[Record, tuple[str, ...]]], max_length: int, system_prompt: str | None
) -> list[Example]:
    examples = []
    for record, fields in wanted:
        conversation = conversation_of(record, system_prompt)
        prompt = encode_prompt(tokenizer, conversation)
        room = max_length - len(prompt)
        if room < 1:
            raise DataError(
                f"The prompt of record {record.id!r} has {len(prompt)} tokens",
                expected=f"fewer than max_length = {max_length}, so that an answer fits",
                action="shorten or drop the record, or raise run.max_length",
            )
        # A malicious affirmative is an opening: nothing may teach the model that it ends there.
        answers = tuple(
            tuple(
                encode_answer(
                    tokenizer, conversation, getattr(record, field), closed=not (record.label == "malicious" and field == "affirm")
                )
            )[:room]
            for field in fields
        )
        if not all(answers):
            raise DataError(f"An answer of record {record.id!r} has no tokens", expected="text", action="correct or drop the record")
        examples.append(Example(record.id, tuple(prompt), answers, record.label == "malicious"))
    return examples
