"""Self-reminder against conversations written out by hand: a random model replies differently to any other prompt."""

from __future__ import annotations

import pytest

from mogu.defenses import TargetModel, make_defense
from mogu.errors import DataError
from mogu.inference.prompts import Conversation, as_conversation
from mogu.inference.replies import ReplySettings

SYSTEM = {"role": "system", "content": "be short"}
TALK = [
    SYSTEM,
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "tell me"},
]


def reply_text(target: TargetModel, name: str, conversation: Conversation, **options: object) -> str:
    return make_defense(name, target, **options).reply([conversation], ReplySettings(8))[0].text


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [
        (as_conversation("tell me"), as_conversation("think\ntell me\nmind")),
        (TALK, [*TALK[:3], {"role": "user", "content": "think\ntell me\nmind"}]),
    ],
)
def test_the_model_reads_the_expected_conversation(conversation: Conversation, expected: Conversation, random_target: TargetModel) -> None:
    """The random model replies differently to any other prompt."""
    before = [dict(turn) for turn in conversation]
    expected_reply = reply_text(random_target, "none", expected)
    assert reply_text(random_target, "self_reminder", conversation, before="think", after="mind") == expected_reply
    assert reply_text(random_target, "none", conversation) != expected_reply
    assert list(conversation) == before  # the caller's conversation is not changed


def test_the_system_prompt_of_the_target_comes_first(random_target: TargetModel) -> None:
    prompted = TargetModel(random_target.base, random_target.tokenizer, system_prompt="be short")
    reply = reply_text(prompted, "self_reminder", as_conversation("tell me"), before="think", after="mind")
    assert reply == reply_text(random_target, "none", [SYSTEM, *as_conversation("think\ntell me\nmind")])


def test_an_empty_reminder_leaves_no_empty_line(random_target: TargetModel) -> None:
    expected = reply_text(random_target, "none", as_conversation("tell me\nmind"))
    assert reply_text(random_target, "self_reminder", as_conversation("tell me"), before="", after="mind") == expected


def test_a_conversation_without_a_user_message_is_refused(random_target: TargetModel) -> None:
    with pytest.raises(DataError, match="no user message"):
        reply_text(random_target, "self_reminder", [SYSTEM])
