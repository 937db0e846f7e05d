"""Defenses that change what the model reads: the conversation they make is the one written down here by hand."""

from __future__ import annotations

import pytest
from known_models import says

from mogu.defenses import Subject, make_defense
from mogu.errors import DataError
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings

SYSTEM = {"role": "system", "content": "be short"}
TALK = [
    SYSTEM,
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "tell me"},
]
SETTINGS = ReplySettings(8)


def replies(subject: Subject, name: str, asked: Conversation, **options: object) -> str:
    return make_defense(name, subject, **options).reply([asked], SETTINGS)[0].text


REMINDED = {"self_reminder": {"before": "think", "after": "mind"}}
SHOWN = {"icd": {"demonstrations": [("hurt", "no"), ("harm", "never")]}}
DEMONSTRATIONS = [
    {"role": "user", "content": "hurt"},
    {"role": "assistant", "content": "no"},
    {"role": "user", "content": "harm"},
    {"role": "assistant", "content": "never"},
]


@pytest.mark.parametrize(
    ("name", "asked", "read"),
    [
        ("self_reminder", says("tell me"), says("think\ntell me\nmind")),
        ("self_reminder", TALK, [*TALK[:3], {"role": "user", "content": "think\ntell me\nmind"}]),
        ("icd", says("tell me"), [*DEMONSTRATIONS, *says("tell me")]),
        ("icd", TALK, [SYSTEM, *DEMONSTRATIONS, *TALK[1:]]),
    ],
)
def test_the_model_reads_the_conversation_written_here(name: str, asked: Conversation, read: Conversation, random_subject: Subject) -> None:
    """The random model says something else to any other prompt."""
    options = (REMINDED | SHOWN)[name]
    before = [dict(turn) for turn in asked]
    expected = replies(random_subject, "none", read)
    assert replies(random_subject, name, asked, **options) == expected
    assert replies(random_subject, "none", asked) != expected
    assert list(asked) == before  # the caller's conversation is the caller's


@pytest.mark.parametrize("name", ["self_reminder", "icd"])
def test_the_subjects_system_prompt_comes_first(name: str, random_subject: Subject) -> None:
    """Random letters tell the right order from any other."""
    options = (REMINDED | SHOWN)[name]
    prompted = Subject(random_subject.base, random_subject.tokenizer, system_prompt="be short")
    assert replies(prompted, name, says("tell me"), **options) == replies(random_subject, name, [SYSTEM, *says("tell me")], **options)


def test_an_empty_reminder_leaves_no_empty_line(random_subject: Subject) -> None:
    expected = replies(random_subject, "none", says("tell me\nmind"))
    assert replies(random_subject, "self_reminder", says("tell me"), before="", after="mind") == expected


def test_there_is_nobody_to_remind_without_a_user(random_subject: Subject) -> None:
    with pytest.raises(DataError, match="no message of the user"):
        replies(random_subject, "self_reminder", [SYSTEM])
