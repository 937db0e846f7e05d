"""From conversations to token ids of which only the assistant's turns are learned.

Knows tokenizers and conversations; knows nothing of batches, models or losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from mogu.data import Chat, naming_record, opened
from mogu.errors import DataError, RecordError
from mogu.files.disk_list import DiskList
from mogu.inference.prompts import encode_answer, encode_prompt
from mogu.training.examples import TurnsExample


@dataclass(frozen=True)
class Encoded:
    """Conversations, encoded.

    Args:
        examples: the examples to learn from, in the order of the conversations.
        dropped: ids of the conversations that were left out because of their length.
    """

    examples: Sequence[TurnsExample]
    dropped: list[str]


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat], *, max_length: int, drop_long: bool = False, system_prompt: str | None = None
) -> Encoded:
    """Encode conversations with the tokenizer's chat template.

    Each turn of the assistant follows the very prompt that generation would build for it, and ends as the template ends a turn. As
    long as the prompt of a turn begins with everything before it, a conversation is one example; where a template rewrites earlier
    turns (reasoning models drop thoughts), a new example begins at that turn.

    Args:
        tokenizer: with its chat template.
        chats: the conversations.
        max_length: the most tokens of an example.
        drop_long: leave out conversations that are longer instead of raising an error.
        system_prompt: put before conversations that have none.

    Raises:
        DataError: a conversation is too long, or its answer has no tokens, or nothing is left.
        RecordError: there is no template, or it refuses a conversation.
    """
    dropped: list[str] = []
    longest = 0

    def kept() -> Iterator[TurnsExample]:
        nonlocal longest
        for chat in chats:
            with naming_record(chat.id, "conversation"):
                encoded = _examples(tokenizer, chat, system_prompt)
            longest = max([longest, *map(len, encoded)])
            if any(len(example) > max_length for example in encoded):
                dropped.append(chat.id)
            else:
                yield from encoded

    examples = DiskList(kept())
    if dropped and not drop_long:
        more = f" and {len(dropped) - 1} more are" if len(dropped) > 1 else " is"
        raise DataError(
            f"The conversation {dropped[0]}{more} longer than {max_length} tokens; the longest has {longest}",
            expected=f"at most run.max_length = {max_length} tokens each",
            action="raise run.max_length, shorten them, or leave them out with data.drop_long = true",
        )
    if not examples:
        raise DataError(
            f"All {len(chats)} conversations are longer than {max_length} tokens",
            expected="something to learn from",
            action="raise run.max_length",
        )
    return Encoded(examples, dropped)


def _examples(tokenizer: PreTrainedTokenizerBase, chat: Chat, system_prompt: str | None) -> list[TurnsExample]:
    turns = opened(chat.conversation, system_prompt)
    rows: list[tuple[list[int], list[int]]] = []
    for index, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = turns[:index]
        if not before:
            raise RecordError(
                f"The conversation {chat.id} begins with the assistant's turn",
                expected="a turn that it answers",
                action="drop that turn, or put the user's turn before it",
                record_id=chat.id,
            )
        prompt = encode_prompt(tokenizer, before)
        answer = encode_answer(tokenizer, before, turn["content"].strip(), closed=True)
        if not answer:
            found = f"An answer of the conversation {chat.id} has no tokens"
            raise RecordError(found, expected="text", action="correct or drop it", record_id=chat.id)
        learned = range(len(prompt), len(prompt) + len(answer))
        if rows and prompt[: len(rows[-1][0])] == rows[-1][0]:
            rows[-1] = (prompt + answer, [*rows[-1][1], *learned])
        else:
            rows.append((prompt + answer, list(learned)))
    return [TurnsExample(chat.id, tuple(ids), tuple(learned)) for ids, learned in rows]
