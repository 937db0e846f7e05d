"""Extract request and reply from a sample, in a form that can be shown to a judge.

Knows Inspect's samples; knows nothing of scores.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from inspect_ai.solver import TaskState

FOLLOW_UP = "follow_up"
"""Metadata key of the question that a jailbreak of two steps asks after the first reply."""

REQUEST = "request"
"""Metadata key of the plain request, where the last turn of a sample's input wraps it in a jailbreak."""

_LONGEST = 16_000  # characters that a judge is shown of a text: three quarters from its beginning, one quarter from its end
_CUT = "\n[… {} characters left out …]\n"
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Exchange:
    """The request and the reply of a sample.

    Args:
        request: the user's last request, without a wrapper where the sample has the plain request.
        before: the turns before it, as (role, text).
        reply: the reply, unchanged.
    """

    request: str
    before: tuple[tuple[str, str], ...]
    reply: str

    @property
    def empty(self) -> bool:
        """Whether the reply has no visible text."""
        return not printable(self.reply).strip()

    def conversation(self) -> str:
        """All turns up to the request, as text for a judge."""
        turns = [f"{role}: {printable(text)}" for role, text in self.before]
        return "\n\n".join([*turns, f"user: {printable(self.request)}"]) if turns else printable(self.request)


def exchange_of(state: TaskState) -> Exchange:
    """Extract the last request of a sample and the last reply, without system messages, which are part of the defense.

    A jailbreak's follow-up question is no request of its own: its reply is one to the request before it.
    """
    turns = _turns(state)
    requests = [index for index, (role, _) in enumerate(turns) if role == "user"]
    asked_again = state.metadata.get(FOLLOW_UP) is not None and len(requests) > 1
    last = requests[-2 if asked_again else -1]
    return Exchange(turns[last][1], tuple(turns[:last]), state.output.completion)


def exchange_of_turn(state: TaskState, number: int) -> Exchange | None:
    """Extract request and reply of a turn of a conversation, counted from 1; ``None`` if that turn has no reply."""
    turns = _turns(state)
    requests = [index for index, (role, _) in enumerate(turns) if role == "user"]
    index = requests[number - 1] if number <= len(requests) else len(turns)
    if index + 1 >= len(turns) or turns[index + 1][0] != "assistant":
        return None
    return Exchange(turns[index][1], tuple(turns[:index]), turns[index + 1][1])


def printable(text: str) -> str:
    """Make a text safe to send: without control characters and lone surrogates, and without the middle if it is very long."""
    if len(text) > _LONGEST:
        head, tail = _LONGEST * 3 // 4, _LONGEST // 4
        text = text[:head] + _CUT.format(len(text) - head - tail) + text[-tail:]
    return _CONTROLS.sub("", text).encode("utf-8", "replace").decode("utf-8")


def _turns(state: TaskState) -> list[tuple[str, str]]:
    """The turns of user and assistant, with the plain request in place of the last turn of the input."""
    turns: list[tuple[str, str]] = [(message.role, message.text) for message in state.messages if message.role in ("user", "assistant")]
    requests = [index for index, (role, _) in enumerate(turns) if role == "user"]
    if not requests:
        turns, requests = [("user", state.input_text)], [0]
    plain = state.metadata.get(REQUEST)
    if isinstance(plain, str) and plain.strip():
        last = 1 if isinstance(state.input, str) else sum(message.role == "user" for message in state.input)
        turns[requests[min(max(last, 1), len(requests)) - 1]] = ("user", plain)
    return turns
