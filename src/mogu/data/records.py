"""One training record: an instruction with both answers it could get.

Knows the shape of a record and nothing of files, tokenizers or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Label = Literal["benign", "malicious"]

MAX_TEXT_CHARACTERS = 131_072
"""The longest text a field may hold: far beyond any prompt, and what Python's csv module takes."""

_Text = Annotated[str, Field(max_length=MAX_TEXT_CHARACTERS)]


class Message(BaseModel):
    """One turn of a conversation, as chat templates take it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: _Text

    @field_validator("content")
    @classmethod
    def _has_text(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("the text of a message is empty")
        return value


class Record(BaseModel):
    """A labelled instruction and its two possible answers: a pair, in the paper's terms.

    Exactly one of ``instruction`` (a single user message) and ``messages`` (a conversation that ends with the user's turn) is given.

    Args:
        id: unique within its file.
        label: ``"benign"`` or ``"malicious"``: what the instruction is, not how it is answered.
        instruction: the user's message.
        messages: the conversation so far, the last message being the user's.
        affirm: an answer that complies; for a malicious instruction an opening only, never content.
        reject: an answer that refuses.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1, max_length=256)
    label: Label
    instruction: _Text | None = None
    messages: tuple[Message, ...] | None = None
    affirm: _Text
    reject: _Text

    @field_validator("instruction", "affirm", "reject")
    @classmethod
    def _has_text(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("the text is empty")
        return value

    @model_validator(mode="after")
    def _has_one_prompt(self) -> Self:
        if (self.instruction is None) == (self.messages is None):
            raise ValueError("give exactly one of 'instruction' and 'messages'")
        if self.messages is not None and (not self.messages or self.messages[-1].role != "user"):
            raise ValueError("'messages' must end with a message of the role 'user'")
        return self

    @property
    def conversation(self) -> list[dict[str, str]]:
        """The prompt as chat messages, ready for a chat template."""
        if self.messages is not None:
            return [message.model_dump() for message in self.messages]
        assert self.instruction is not None  # guaranteed by _has_one_prompt
        return [{"role": "user", "content": self.instruction}]


def opened(conversation: Sequence[dict[str, str]], system_prompt: str | None) -> list[dict[str, str]]:
    """A conversation, opened by a system prompt unless it has one of its own."""
    turns = list(conversation)
    if system_prompt and turns[0]["role"] != "system":
        return [{"role": "system", "content": system_prompt}, *turns]
    return turns


def conversation_of(record: Record, system_prompt: str | None) -> list[dict[str, str]]:
    """A record's conversation, opened by a system prompt unless it has one of its own."""
    return opened(record.conversation, system_prompt)
