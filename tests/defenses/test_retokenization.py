"""Retokenization on the lab's model: what decides the reply, and the base model's own reply without dropout."""

from __future__ import annotations

from mogu.defenses import TargetModel, make_defense
from mogu.inference.prompts import as_conversation
from mogu.inference.replies import ReplySettings
from mogu.lab import prompts


def test_the_reply_depends_on_the_seed_and_not_on_the_position_in_the_batch(lab_target: TargetModel) -> None:
    conversations = [as_conversation(prompt.instruction) for prompt in prompts("dev")[:12]]
    settings = [ReplySettings(12, seed=seed) for seed in (None, 0, 1)]
    retokenization = make_defense("retokenization", lab_target, dropout=0.6)
    unseeded, zero, one = ([reply.text for reply in retokenization.reply(conversations, setting)] for setting in settings)
    assert unseeded == zero  # 0 is the default
    assert zero != one
    reversed_batch = [reply.text for reply in retokenization.reply(conversations[::-1], settings[1])]
    assert reversed_batch == zero[::-1]


def test_without_dropout_the_base_model_answers(lab_target: TargetModel) -> None:
    conversations = [as_conversation(prompt.instruction) for prompt in prompts("dev")[:4]]
    plain, retokenized = (
        [reply.text for reply in make_defense(name, lab_target, **options).reply(conversations, ReplySettings(16))]
        for name, options in (("none", {}), ("retokenization", {"dropout": 0.0}))
    )
    assert retokenized == plain
