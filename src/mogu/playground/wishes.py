"""What a page may ask for, and the bounds of it. Knows shapes of messages; knows nothing of models or connections."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mogu.errors import DataError

MOST_CHARACTERS = 200_000
"""Of all texts of one message; a file of prompts may be as long."""

Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]


class _Wish(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    job: int = Field(ge=0)
    """Chosen by the page, which finds it again in every event that belongs to the wish."""
    dial: float | None = Field(default=None, ge=-100, le=100)
    max_new_tokens: int = Field(default=256, ge=1, le=2048)
    system: Text = ""


class Turn(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["user", "assistant"]
    content: Text


class Column(BaseModel):
    """One side that is asked, where its answer is shown, and what it has been told so far."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: int = Field(ge=0, le=3)
    side: str
    turns: tuple[Turn, ...] = Field(min_length=1, max_length=200)


class Ask(_Wish):
    """Answer a conversation."""

    type: Literal["ask"]
    columns: tuple[Column, ...] = Field(min_length=1, max_length=4)
    temperature: float = Field(default=0.0, ge=0, le=2)
    seed: int | None = Field(default=None, ge=0, lt=2**31)


class Attack(_Wish):
    """Make an attack on some sides."""

    type: Literal["attack"]
    name: str
    request: Text = Field(min_length=1)
    sides: tuple[str, ...] = Field(min_length=1, max_length=4)
    count: int = Field(default=4, ge=1, le=32)


class AskAll(_Wish):
    """Put a file of prompts to some sides."""

    type: Literal["file"]
    name: Annotated[str, Field(max_length=255)]
    text: Text
    sides: tuple[str, ...] = Field(min_length=1, max_length=4)


class Frontier(_Wish):
    """Say what the dial of a side buys."""

    type: Literal["frontier"]
    side: str


class Stop(BaseModel):
    """End what is under way."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["stop"]


Wish = Annotated[Ask | Attack | AskAll | Frontier | Stop, Field(discriminator="type")]
_WISH: TypeAdapter[Ask | Attack | AskAll | Frontier | Stop] = TypeAdapter(Wish)


def read_wish(text: str) -> Ask | Attack | AskAll | Frontier | Stop:
    """Read what a page sent.

    Raises:
        DataError: it is none of the wishes, or out of bounds.
    """
    try:
        return _WISH.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the message"
        raise DataError(
            f"The page sent something that cannot be used: {where}: {first['msg']}",
            expected="a message of this page",
            action="shorten what is too long, or load the page again",
        ) from error


def job_of(text: str) -> int | None:
    """The job that a message names, however wrong the rest of it is; ``None`` where it names none."""
    try:
        message: Any = json.loads(text)
    except ValueError:
        return None
    job = message.get("job") if isinstance(message, dict) else None
    return job if isinstance(job, int) else None
