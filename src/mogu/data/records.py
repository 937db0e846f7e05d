"""One training record: an instruction with both answers it could get.

Knows the shape of a record and nothing of files, tokenizers or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from mogu.inference.prompts import Conversation, WithTools

Label = Literal["benign", "malicious"]

MAX_TEXT_CHARACTERS = 131_072
"""The longest text a field may hold: far beyond any prompt, and what Python's csv module takes."""

_Text = Annotated[str, Field(max_length=MAX_TEXT_CHARACTERS)]


def _with_function(value: dict[str, Any]) -> dict[str, Any]:
    """The very dictionary that was given, once it has what templates need."""
    function = value.get("function")
    if value.get("type") != "function" or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError('a tool, or a call of one, has the form {"type": "function", "function": {"name": "…", …}}')
    return value


Tool = Annotated[dict[str, Any], AfterValidator(_with_function)]
"""A tool, or the call of one, in the form that chat templates take: ``{"type": "function", "function": {"name": …}}``."""


class Message(BaseModel):
    """One turn of a conversation of plain text, as chat templates take it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: _Text

    @field_validator("content")
    @classmethod
    def _has_text(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("the text of a message is empty")
        return value


class Turn(BaseModel):
    """One turn of a conversation in which tools may be called, as chat templates take it.

    Args:
        role: who speaks; ``"tool"`` is the result of a call.
        content: the text; an assistant that calls tools may say none.
        tool_calls: of the assistant: ``{"type": "function", "function": {"name", "arguments"}}``.
        name: of the tool whose result this is.
        tool_call_id: of the call whose result this is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: _Text | None = None
    tool_calls: Annotated[tuple[Tool, ...], Field(min_length=1)] | None = None
    name: str | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError(f"a message of the role '{self.role}' cannot call tools")
        if (self.name, self.tool_call_id) != (None, None) and self.role != "tool":
            raise ValueError(f"'name' and 'tool_call_id' are for the role 'tool', not '{self.role}'")
        if self.role == "tool" and self.content is None:
            raise ValueError("the result of a tool has no 'content'")
        if self.role != "tool" and self.tool_calls is None and not (self.content or "").strip():
            raise ValueError("the text of a message is empty")
        return self

    def for_template(self) -> dict[str, Any]:
        """The message as it was given: what was left out stays out, for templates ask what is there."""
        given = {name: getattr(self, name) for name in Turn.model_fields if name in self.model_fields_set}
        return {name: list(value) if name == "tool_calls" and value is not None else value for name, value in given.items()}


class Record(BaseModel):
    """A labeled instruction and its two possible answers: a pair, in the paper's terms.

    Exactly one of ``instruction`` (a single user message) and ``messages`` (a conversation that ends with the user's turn) is given.

    Args:
        id: unique within its file.
        label: ``"benign"`` or ``"malicious"``: what the instruction is, not how it is answered.
        instruction: the user's message.
        messages: the conversation so far, the last message being the user's, or a tool's result.
        tools: the tools that the model is offered.
        affirm: an answer that complies; for a malicious instruction an opening only, never content.
        reject: an answer that refuses.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1, max_length=256)
    label: Label
    instruction: _Text | None = None
    messages: tuple[Turn, ...] | None = None
    tools: Annotated[tuple[Tool, ...], Field(min_length=1)] | None = None
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
        if self.messages is None:
            return self
        if not self.messages or self.messages[-1].role not in ("user", "tool"):
            raise ValueError("'messages' must end with a message of the role 'user', or with the result of a tool")
        if all(message.role != "user" for message in self.messages):
            raise ValueError("'messages' must hold a message of the role 'user'")
        for before, message in zip((None, *self.messages), self.messages, strict=False):
            if message.role == "tool" and (before is None or (before.role != "tool" and before.tool_calls is None)):
                raise ValueError("a message of the role 'tool' must follow the assistant's 'tool_calls'")
        return self

    @property
    def request(self) -> str:
        """What the user said last."""
        return last_request(self.conversation)

    @property
    def uses_tools(self) -> bool:
        """Whether tools are offered, or were called."""
        return self.tools is not None or any(message.role == "tool" or message.tool_calls for message in self.messages or ())

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The prompt as chat messages, ready for a chat template."""
        if self.messages is not None:
            return [message.for_template() for message in self.messages]
        assert self.instruction is not None  # guaranteed by _has_one_prompt
        return [{"role": "user", "content": self.instruction}]


def last_request(conversation: Conversation) -> str:
    """What the user said last in a conversation."""
    return next(str(message["content"]) for message in reversed(conversation) if message["role"] == "user")


def opened(conversation: Conversation, system_prompt: str | None) -> list[dict[str, Any]]:
    """A conversation, opened by a system prompt unless it has one of its own."""
    turns = list(conversation)
    if system_prompt and turns[0]["role"] != "system":
        return [{"role": "system", "content": system_prompt}, *turns]
    return turns


def offered(conversation: Conversation, tools: Sequence[dict[str, Any]] | None) -> Conversation | WithTools:
    """A conversation with the tools that the model is offered in it, where there are any."""
    return conversation if tools is None else WithTools(conversation, tools)


def conversation_of(record: Record, system_prompt: str | None) -> Conversation | WithTools:
    """A record's conversation with its tools, opened by a system prompt unless it has one of its own."""
    return offered(opened(record.conversation, system_prompt), record.tools)
