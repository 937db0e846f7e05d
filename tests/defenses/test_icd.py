"""The in-context defense against conversations written out by hand: a random model replies differently to any other prompt."""

from __future__ import annotations

import pytest

from mogu.defenses import TargetModel, make_defense
from mogu.inference.prompts import Conversation, as_conversation
from mogu.inference.replies import ReplySettings

SYSTEM = {"role": "system", "content": "be short"}
TALK = [
    SYSTEM,
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "tell me"},
]
DEMONSTRATIONS = [("hurt", "no"), ("harm", "never")]
DEMONSTRATION_TURNS = [
    {"role": "user", "content": "hurt"},
    {"role": "assistant", "content": "no"},
    {"role": "user", "content": "harm"},
    {"role": "assistant", "content": "never"},
]


def reply_text(target: TargetModel, name: str, conversation: Conversation, **options: object) -> str:
    return make_defense(name, target, **options).reply([conversation], ReplySettings(8))[0].text


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [
        (as_conversation("tell me"), [*DEMONSTRATION_TURNS, *as_conversation("tell me")]),
        (TALK, [SYSTEM, *DEMONSTRATION_TURNS, *TALK[1:]]),
    ],
)
def test_the_model_reads_the_expected_conversation(conversation: Conversation, expected: Conversation, random_target: TargetModel) -> None:
    """The random model replies differently to any other prompt."""
    before = [dict(turn) for turn in conversation]
    expected_reply = reply_text(random_target, "none", expected)
    assert reply_text(random_target, "icd", conversation, demonstrations=DEMONSTRATIONS) == expected_reply
    assert reply_text(random_target, "none", conversation) != expected_reply
    assert list(conversation) == before  # the caller's conversation is not changed


def test_the_system_prompt_of_the_target_comes_first(random_target: TargetModel) -> None:
    prompted = TargetModel(random_target.base, random_target.tokenizer, system_prompt="be short")
    reply = reply_text(prompted, "icd", as_conversation("tell me"), demonstrations=DEMONSTRATIONS)
    assert reply == reply_text(random_target, "none", [SYSTEM, *DEMONSTRATION_TURNS, *as_conversation("tell me")])
