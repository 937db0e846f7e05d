"""Supervised fine-tuning as a defense: the reply is the one of the trained adapter."""

from __future__ import annotations

from mogu.defenses import TargetModel, make_defense
from mogu.inference.prompts import as_conversation
from mogu.inference.replies import ReplySettings, reply_batch


def test_the_reply_is_the_one_of_the_adapter(random_target: TargetModel) -> None:
    conversations = [as_conversation("ab"), as_conversation("abcd")]
    settings = ReplySettings(8)
    prompts = [random_target.encode(conversation) for conversation in conversations]
    expected = reply_batch(random_target.with_adapter("sft"), random_target.tokenizer, prompts, settings)
    sft, none = ([reply.text for reply in make_defense(name, random_target).reply(conversations, settings)] for name in ("sft", "none"))
    assert sft == [reply.text for reply in expected]
    assert sft != none
