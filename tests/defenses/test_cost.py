"""Costs against numbers counted by hand."""

from __future__ import annotations

import pytest

from mogu.defenses import TargetModel, make_defense
from mogu.inference.prompts import as_conversation
from mogu.inference.replies import ReplySettings

# No token ends a reply of the random model, so 4 tokens take 1 pass over the prompt and 3 passes over one token each.
# The prompts "<s><user>ab<assistant>" and "<s><user>abcd<assistant>" have 5 and 7 tokens, 7 each in a batch.
PLAIN = (4, 2 * 7 + 3 * 2)
COSTS = {
    "none": PLAIN,
    "sft": PLAIN,
    "safe_decoding": (4 + 2, PLAIN[1] + 2 * 7 + 2),  # the expert reads both prompts, then one token of each reply
    "self_reminder": (4, 2 * (7 + 4) + 3 * 2),  # "x", two line breaks and "y" more
    "icd": (4, 2 * (7 + 6) + 3 * 2),  # "<user>", two letters, "<assistant>", two letters more
}
OPTIONS = {"self_reminder": {"before": "x", "after": "y"}, "icd": {"demonstrations": [("ab", "cd")]}}


@pytest.mark.parametrize("name", COSTS)
def test_each_reply_costs_its_share_of_the_passes_counted_by_hand(name: str, random_target: TargetModel) -> None:
    prepared = make_defense(name, random_target, **OPTIONS.get(name, {}))
    replies = prepared.reply([as_conversation("ab"), as_conversation("abcd")], ReplySettings(4))
    passes, tokens = COSTS[name]
    assert [(reply.cost.passes, reply.cost.tokens) for reply in replies] == [(passes / 2, tokens / 2)] * 2
    assert all(reply.cost.seconds > 0 for reply in replies)


def test_self_examine_costs_a_second_reply(random_target: TargetModel) -> None:
    prepared = make_defense("self_examine", random_target, question="a{reply}", verdict_tokens=3)
    (reply,) = prepared.reply([as_conversation("ab")], ReplySettings(4))
    question = 3 + 1 + len(random_target.tokenizer(reply.text, add_special_tokens=False)["input_ids"])
    assert reply.cost.passes == 4 + 3
    assert reply.cost.tokens == (5 + 3) + (question + 2)
