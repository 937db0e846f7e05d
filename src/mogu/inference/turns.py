"""Which tokens of a prompt are the user's own, and where the answer begins, found by the marks that a chat template writes around them.

Knows tokenizers and token ids; knows nothing of models or of what the tokens are read for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mogu.inference.prompts import Conversation, apply_template, encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# They begin and end with different characters, so that tokens that straddle a border differ as well.
_PROBES = ("Hello there", "7 apples?", "(why not)", "été!", "a", "Zoo: x.")
_ANSWER = "Yes."

Span = tuple[int, int]
"""First token, and the one behind the last."""


@dataclass(frozen=True)
class PromptSpans:
    """Where things are in the token ids of one prompt.

    Args:
        user: the user's own text, turn by turn; never empty.
        end: index of the last token of the last of these.
        last: index of the last token before the answer, the template's own; what stands behind it is an answer that has been begun.
    """

    user: tuple[Span, ...]
    end: int
    last: int


@dataclass(frozen=True)
class TurnMarks:
    """What a chat template writes around the user's turns, as token ids; empty where that could not be found out.

    Args:
        before: right before the user's text, the same in every turn.
        after: right behind it, up to the answer.
        header: what stands before an answer, whatever comes before it; empty where a template writes nothing there.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    header: tuple[int, ...] = ()

    def spans(self, ids: Sequence[int]) -> PromptSpans:
        """Find the user's turns in a prompt; without marks in it, all of the prompt is the user's."""
        ids = tuple(ids)
        user: list[Span] = []
        position, last = 0, len(ids) - 1
        while self.before and self.after:
            start = _find(ids, self.before, position)
            stop = -1 if start < 0 else _find(ids, self.after, start + len(self.before))
            if stop < 0:
                break
            start += len(self.before)
            if stop > start:
                user.append((start, stop))
                last = stop + len(self.after) - 1
            position = stop
        if not user:
            return PromptSpans(((0, len(ids)),), len(ids) - 1, len(ids) - 1)
        header = _find_last(ids, self.header, last + 1) if self.header else -1
        return PromptSpans(tuple(user), user[-1][1] - 1, last if header < 0 else header + len(self.header) - 1)


def find_turn_marks(tokenizer: PreTrainedTokenizerBase) -> TurnMarks:
    """Find the marks of a tokenizer's chat template, by rendering conversations that differ in the user's text alone.

    Returns:
        The marks; empty ones if user texts do not stand between the same tokens in every turn.

    Raises:
        ChatTemplateError: the tokenizer has no chat template, or the template fails.
    """
    prompts = [encode_prompt(tokenizer, text) for text in _PROBES]
    later = [encode_prompt(tokenizer, _second_turn(text)) for text in _PROBES]
    front, back = _common_start(prompts), _common_end(prompts)
    later_front, later_back = _common_start(later), _common_end(later)
    before, after = _common_end([front, later_front]), _common_end([back, later_back])
    if not before or not after:
        return TurnMarks()
    return TurnMarks(tuple(before), tuple(after), _header(tokenizer, after))


def _second_turn(text: str) -> Conversation:
    return [
        {"role": "user", "content": _PROBES[0]},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": text},
    ]


def _header(tokenizer: PreTrainedTokenizerBase, after: Sequence[int]) -> tuple[int, ...]:
    """The part of ``after`` that a template adds only because an answer is to come."""
    turns = [{"role": "user", "content": _PROBES[0]}]
    try:
        without = apply_template(tokenizer, turns, add_generation_prompt=False)
    except Exception:  # a template that only writes prompts has no other form
        return ()
    closed = list(tokenizer(str(without), add_special_tokens=False)["input_ids"])
    whole = encode_prompt(tokenizer, turns)
    added = len(whole) - len(closed)
    return tuple(whole[-added:]) if 0 < added <= len(after) and whole[: len(closed)] == closed else ()


def _common_start(lists: Sequence[Sequence[int]]) -> list[int]:
    common = []
    for tokens in zip(*lists, strict=False):
        if len(set(tokens)) > 1:
            break
        common.append(tokens[0])
    return common


def _common_end(lists: Sequence[Sequence[int]]) -> list[int]:
    return _common_start([ids[::-1] for ids in lists])[::-1]


def _find(ids: tuple[int, ...], marks: tuple[int, ...], start: int) -> int:
    return next((index for index in range(start, len(ids) - len(marks) + 1) if ids[index : index + len(marks)] == marks), -1)


def _find_last(ids: tuple[int, ...], marks: tuple[int, ...], start: int) -> int:
    return next((index for index in range(len(ids) - len(marks), start - 1, -1) if ids[index : index + len(marks)] == marks), -1)
