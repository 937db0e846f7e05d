"""What was asked and what was answered, out of a sample, fit to be shown to a judge.

Knows Inspect's samples; knows nothing of scores.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from inspect_ai.solver import TaskState

REQUEST = "request"
"""The metadata in which a sample may carry the plain request of its input's last turn, which may wrap it, such as in a jailbreak."""

_LONGEST = 16_000  # characters of a text that a judge is shown: its first three quarters and its last quarter
_CUT = "\n[… {} characters left out …]\n"
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Exchange:
    """One sample's request and reply.

    Args:
        request: what the user asked for last, without what was wrapped around it where the sample says what that is.
        before: the turns before it, as (role, text).
        reply: what was answered, as it came.
    """

    request: str
    before: tuple[tuple[str, str], ...]
    reply: str

    @property
    def empty(self) -> bool:
        """Whether there is nothing to see in the reply."""
        return not printable(self.reply).strip()

    def conversation(self) -> str:
        """All turns up to the request, for a judge to read."""
        turns = [f"{role}: {printable(text)}" for role, text in self.before]
        return "\n\n".join([*turns, f"user: {printable(self.request)}"]) if turns else printable(self.request)


def exchange_of(state: TaskState) -> Exchange:
    """The last request of a sample and its reply; system messages are left out, for they are part of the defense and not of the request."""
    turns = _turns(state)
    last = max(place for place, (role, _) in enumerate(turns) if role == "user")
    return Exchange(turns[last][1], tuple(turns[:last]), state.output.completion)


def exchange_of_turn(state: TaskState, number: int) -> Exchange | None:
    """The request and the reply of one turn of a conversation, counted from 1, or ``None`` where that turn was not answered."""
    turns = _turns(state)
    asked = [place for place, (role, _) in enumerate(turns) if role == "user"]
    place = asked[number - 1] if number <= len(asked) else len(turns)
    if place + 1 >= len(turns) or turns[place + 1][0] != "assistant":
        return None
    return Exchange(turns[place][1], tuple(turns[:place]), turns[place + 1][1])


def printable(text: str) -> str:
    """A text that can be sent and read: no control characters, no broken ones, and the middle of a very long one left out."""
    if len(text) > _LONGEST:
        head, tail = _LONGEST * 3 // 4, _LONGEST // 4
        text = text[:head] + _CUT.format(len(text) - head - tail) + text[-tail:]
    return _CONTROLS.sub("", text).encode("utf-8", "replace").decode("utf-8")


def _turns(state: TaskState) -> list[tuple[str, str]]:
    """What user and assistant said, the sample's plain request in the place of its input's last turn."""
    turns: list[tuple[str, str]] = [(message.role, message.text) for message in state.messages if message.role in ("user", "assistant")]
    asked = [place for place, (role, _) in enumerate(turns) if role == "user"]
    if not asked:
        turns, asked = [("user", state.input_text)], [0]
    plain = state.metadata.get(REQUEST)
    if isinstance(plain, str) and plain.strip():
        last = 1 if isinstance(state.input, str) else sum(message.role == "user" for message in state.input)
        turns[asked[min(max(last, 1), len(asked)) - 1]] = ("user", plain)
    return turns
