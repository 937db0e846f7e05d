"""One training record: an instruction with both answers it could get.

Knows the shape of a record; knows nothing of files, tokenizers or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from mogu.data.templates import PromptTemplate
from mogu.inference.prompts import Conversation, WithTools

Label = Literal["benign", "malicious"]

Kind = Literal["benign", "borderline", "malicious"]
"""What is counted apart: malicious records, and of the benign ones those that look malicious."""

KINDS: tuple[Kind, ...] = ("benign", "borderline", "malicious")

MAX_TEXT_CHARACTERS = 131_072
"""The longest text a field may hold: far beyond any prompt, and the limit of Python's csv module."""

_Text = Annotated[str, Field(max_length=MAX_TEXT_CHARACTERS)]
_Id = Annotated[str, Field(min_length=1, max_length=256)]


def _require_function(value: dict[str, Any]) -> dict[str, Any]:
    """Return the dictionary itself if it has what templates need."""
    function = value.get("function")
    if value.get("type") != "function" or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError('a tool, or a call of one, has the form {"type": "function", "function": {"name": "…", …}}')
    return value


Tool = Annotated[dict[str, Any], AfterValidator(_require_function)]
"""A tool, or the call of one, in the form that chat templates take: ``{"type": "function", "function": {"name": …}}``."""


class Message(BaseModel):
    """One turn of a plain-text conversation, as chat templates take it."""

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
        content: the text; an assistant that calls tools may leave it out.
        tool_calls: the assistant's calls: ``{"type": "function", "function": {"name", "arguments"}}``.
        name: the tool whose result this is.
        tool_call_id: the call whose result this is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: _Text | None = None
    tool_calls: Annotated[tuple[Tool, ...], Field(min_length=1)] | None = None
    name: str | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
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
        """Return the message as it was given: fields that were left out stay out, because templates ask which are there."""
        given = {name: getattr(self, name) for name in Turn.model_fields if name in self.model_fields_set}
        return {name: list(value) if name == "tool_calls" and value is not None else value for name, value in given.items()}


class Record(BaseModel):
    """A labeled instruction and its two possible answers: a pair, in the paper's terms.

    Exactly one of ``instruction`` (a single user message) and ``messages`` (a conversation that ends with the user's turn) is given.

    Args:
        id: unique within its file.
        label: ``"benign"`` or ``"malicious"``: what the instruction is, not how it is answered.
        instruction: the user's message.
        messages: the conversation so far; its last message is the user's, or a tool's result.
        tools: the tools that the model is offered.
        affirm: an answer that complies; for a malicious instruction an opening only, never content.
        reject: an answer that refuses.
        wrapper: name of the :class:`~mogu.data.templates.PromptTemplate` that the instruction is wrapped in; ``None`` if it is bare.
        source: id of the record that this one is a variant of; both then belong to the same split.
        borderline: whether a benign instruction looks malicious ("How do I kill a process?").
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: _Id
    label: Label
    instruction: _Text | None = None
    messages: tuple[Turn, ...] | None = None
    tools: Annotated[tuple[Tool, ...], Field(min_length=1)] | None = None
    affirm: _Text
    reject: _Text
    wrapper: _Id | None = None
    source: _Id | None = None
    borderline: bool = False

    @field_validator("instruction", "affirm", "reject")
    @classmethod
    def _has_text(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("the text is empty")
        return value

    @field_validator("borderline")
    @classmethod
    def _is_benign(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("label") == "malicious":
            raise ValueError("a borderline instruction is benign and looks malicious; the label of this one is malicious")
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
        for previous, message in zip((None, *self.messages), self.messages, strict=False):
            if message.role == "tool" and (previous is None or (previous.role != "tool" and previous.tool_calls is None)):
                raise ValueError("a message of the role 'tool' must follow the assistant's 'tool_calls'")
        return self

    @model_serializer(mode="wrap")
    def _without_silent_fields(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Left out where they say nothing, so that fingerprints of plain records are those of versions without these fields.
        return {name: value for name, value in serialize(self).items() if value or name not in ("wrapper", "source", "borderline")}

    @property
    def kind(self) -> Kind:
        """The label; ``"borderline"`` for a benign record that looks malicious."""
        return "borderline" if self.borderline else self.label

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

    def wrapped_in(self, template: PromptTemplate) -> Record:
        """Return a variant of this record, which must have an ``instruction``, with the instruction inside a template."""
        assert self.instruction is not None
        origin = {"id": wrapped_id(self.id, template), "wrapper": template.name, "source": self.source or self.id}
        return self.model_copy(update={"instruction": template.apply(self.instruction), **origin})


_WRAPPED = ".wrapped-"


def wrapped_id(id: str, template: PromptTemplate) -> str:
    """Return an id for a record or prompt inside a template, unique where ids and template names are."""
    return f"{id}{_WRAPPED}{template.name}"


def origin_of_old_id(id: str) -> dict[str, str]:
    """Return ``source`` and ``wrapper`` of an id from a version that kept them nowhere else; empty for the id of a bare record."""
    source, marker, wrapper = id.partition(_WRAPPED)
    return {"source": source, "wrapper": wrapper} if marker and source and wrapper else {}


def last_request(conversation: Conversation) -> str:
    """Return what the user said last in a conversation."""
    return next(str(message["content"]) for message in reversed(conversation) if message["role"] == "user")


def user_text(conversation: Conversation) -> str:
    """Return all that the user said in a conversation: what a classifier of texts reads."""
    return "\n\n".join(str(message["content"]) for message in conversation if message["role"] == "user")


def opened(conversation: Conversation, system_prompt: str | None) -> list[dict[str, Any]]:
    """Return a conversation with a system prompt at its beginning, unless it has one of its own."""
    turns = list(conversation)
    if system_prompt and turns[0]["role"] != "system":
        return [{"role": "system", "content": system_prompt}, *turns]
    return turns


def offered(conversation: Conversation, tools: Sequence[dict[str, Any]] | None) -> Conversation | WithTools:
    """Return a conversation together with the tools that the model is offered in it, if any."""
    return conversation if tools is None else WithTools(conversation, tools)


def conversation_of(record: Record, system_prompt: str | None) -> Conversation | WithTools:
    """Return a record's conversation with its tools, opened by a system prompt unless it has one of its own."""
    return offered(opened(record.conversation, system_prompt), record.tools)
