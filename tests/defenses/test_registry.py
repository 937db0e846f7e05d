"""What holds for every defense: names, options, documentation, and replies that do not depend on the batch."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from mogu.defenses import (
    REFUSAL,
    DefendedReply,
    DefenseInfo,
    TargetModel,
    defense,
    defense_info,
    defense_names,
    defense_options,
    make_defense,
)
from mogu.defenses import registry as registry_module
from mogu.defenses.registry import Answer
from mogu.errors import ConfigError
from mogu.inference.prompts import Conversation, as_conversation
from mogu.inference.replies import ReplySettings

BASELINES = ["none", "sft", "detect_inp", "self_reminder", "self_examine", "retokenization", "icd", "safe_decoding"]
GREEDY = ReplySettings(24)


def test_defenses_are_listed_in_the_order_of_reports() -> None:
    assert defense_names() == [*BASELINES[:3], "minilm", *BASELINES[3:], "mogu_score", "mogu"]
    assert [name for name in defense_names() if defense_info(name).routed] == ["mogu_score", "mogu"]


def test_each_defense_says_what_it_needs_and_whether_a_seed_can_change_its_replies() -> None:
    assert {name: info.part for name in defense_names() if (info := defense_info(name)).part} == {
        "sft": "sft",
        "detect_inp": "detector.json",
        "minilm": "minilm.json",
        "safe_decoding": "expert",
    }
    assert [name for name in defense_names() if not defense_info(name).deterministic] == ["retokenization"]
    assert defense_info("icd") == DefenseInfo("icd", label="ICD", part=None, deterministic=True, order=15)
    with pytest.raises(ConfigError, match="There is no defense 'prayer'"):
        defense_info("prayer")


def test_published_parameters_are_the_defaults() -> None:
    assert defense_options("safe_decoding") == {"first_m": 2, "alpha": 3.0, "top_k": 10, "num_common_tokens": 5}
    assert defense_options("retokenization") == {"dropout": 0.2}
    assert defense_options("detect_inp") == {"classifier": None, "malicious_label": None, "threshold": 0.5}
    assert defense_options("none") == defense_options("sft") == {}


@pytest.mark.parametrize("name", BASELINES)
def test_replies_do_not_depend_on_the_rest_of_the_batch(name: str, lab_target: TargetModel, conversations: list[Conversation]) -> None:
    prepared = make_defense(name, lab_target)
    together = prepared.reply(conversations, GREEDY)
    alone = [prepared.reply([conversation], GREEDY)[0] for conversation in conversations]
    assert [(reply.text, reply.tokens, reply.finished, reply.intervened) for reply in together] == [
        (reply.text, reply.tokens, reply.finished, reply.intervened) for reply in alone
    ]
    assert len({reply.text for reply in together}) > 2  # different conversations get different replies


def test_an_empty_batch_has_no_replies(lab_target: TargetModel) -> None:
    assert make_defense("none", lab_target).reply([], GREEDY) == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("no_such", {}, "no defense 'no_such'"),
        ("none", {"dial": 1}, "no options"),
        ("icd", {"demonstration": []}, "demonstrations"),
        ("icd", {"demonstrations": []}, "one or more pairs"),
        ("icd", {"demonstrations": [("only a request", "")]}, "one or more pairs"),
        ("self_reminder", {"before": None}, "before=None"),
        ("self_examine", {"question": "Is it harmful?"}, "{reply}"),
        ("self_examine", {"verdict_tokens": 0}, "verdict_tokens=0"),
        ("retokenization", {"dropout": 1.5}, "dropout=1.5"),
        ("safe_decoding", {"first_m": -1}, "first_m=-1"),
        ("safe_decoding", {"top_k": 0}, "top_k=0"),
        ("safe_decoding", {"num_common_tokens": True}, "num_common_tokens=True"),
        ("safe_decoding", {"alpha": float("nan")}, "alpha=nan"),
        ("detect_inp", {"threshold": 2}, "threshold=2"),
        ("detect_inp", {"malicious_label": "LABEL_1"}, "malicious_label"),
    ],
)
def test_unusable_options_are_refused(name: str, options: dict[str, object], message: str, lab_target: TargetModel) -> None:
    with pytest.raises(ConfigError) as caught:
        make_defense(name, lab_target, **options)
    assert message in str(caught.value)


def test_a_custom_defense_is_found_by_its_name(lab_target: TargetModel) -> None:
    @defense("always_no")
    def always_no(target: TargetModel, *, politely: bool = True) -> Answer:
        def answer(conversations: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
            return [DefendedReply(REFUSAL if politely else "No.", 0, True, intervened=True) for _ in conversations]

        return answer

    assert defense_options("always_no") == {"politely": True}
    (reply,) = make_defense("always_no", lab_target, politely=False).reply([as_conversation("Hello")], GREEDY)
    assert (reply.text, reply.cost.passes) == ("No.", 0)


@pytest.mark.parametrize("name", [*BASELINES, "minilm", "mogu"])
def test_docstrings_cite_a_source(name: str) -> None:
    text = inspect.getdoc(registry_module._REGISTRY[name][1]) or ""
    assert name == "none" or any(source in text for source in ("et al.", "MoGU, section"))


def test_short_memory_changes_no_reply_and_no_detail(lab_target: TargetModel, conversations: list[Conversation]) -> None:
    defense, settings = make_defense("detect_inp", lab_target, threshold=1.0), ReplySettings(8)
    expected = defense.reply(conversations, settings)
    rows: list[int] = []

    def room_for_two(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        rows.append(len(args[0]))
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError("a row too many")

    hook = lab_target.base.get_input_embeddings().register_forward_pre_hook(room_for_two)
    try:
        found = defense.reply(conversations, settings)
    finally:
        hook.remove()
    assert [reply.text for reply in found] == [reply.text for reply in expected]
    assert [reply.details["score"] for reply in found] == pytest.approx([reply.details["score"] for reply in expected], rel=1e-4)
    assert max(rows) > 2
