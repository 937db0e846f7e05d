"""What holds for every defense: names and options, batches, costs counted by hand, and clear words about what is missing."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from known_models import says

from mogu import MoguConfig, MoguModel
from mogu.defenses import REFUSAL, DefendedReply, DefenseInfo, Subject, defense, defense_info, defense_names, defense_options, make_defense
from mogu.defenses import registry as registry_module
from mogu.defenses.registry import Answer
from mogu.errors import ConfigError, ModelFileError
from mogu.inference.prompts import Conversation
from mogu.inference.replies import ReplySettings, reply_batch
from mogu.lab import build_base, prompts
from mogu.modeling.shared_weights import twin

EVERY = ["none", "sft", "detect_inp", "self_reminder", "self_examine", "retokenization", "icd", "safe_decoding", "mogu"]
ON_THE_LAB = [name for name in EVERY if name != "mogu"]
GREEDY = ReplySettings(24)


def conversations() -> list[Conversation]:
    """Of each category of the lab two prompts, long and short, and a conversation of three turns with a system prompt."""
    asked = [prompt for number, prompt in enumerate(prompts("dev")) if number % 56 in (3, 30)]
    talk = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": asked[0].instruction},
        {"role": "assistant", "content": "Use a soft cloth."},
        {"role": "user", "content": asked[1].instruction},
    ]
    return [talk, *(says(prompt.instruction) for prompt in asked)]


def test_the_defenses_are_in_the_order_of_reports() -> None:
    assert defense_names() == EVERY


def test_each_defense_says_what_it_needs_and_whether_a_seed_can_change_its_replies() -> None:
    assert {name: info.part for name in EVERY if (info := defense_info(name)).part} == {
        "sft": "sft",
        "detect_inp": "detector.json",
        "safe_decoding": "expert",
    }
    assert [name for name in EVERY if not defense_info(name).deterministic] == ["retokenization"]
    assert defense_info("icd") == DefenseInfo("icd", label="ICD", part=None, deterministic=True)
    with pytest.raises(ConfigError, match="There is no defense 'prayer'"):
        defense_info("prayer")


def test_published_parameters_are_the_defaults() -> None:
    assert defense_options("safe_decoding") == {"first_m": 2, "alpha": 3.0, "top_k": 10, "num_common_tokens": 5}
    assert defense_options("retokenization") == {"dropout": 0.2}
    assert defense_options("detect_inp") == {"classifier": None, "malicious_label": None, "threshold": 0.5}
    assert defense_options("none") == defense_options("sft") == {}


@pytest.mark.parametrize("name", ON_THE_LAB)
def test_a_batch_says_what_each_conversation_gets_alone(name: str, lab: Subject) -> None:
    asked = conversations()
    ready = make_defense(name, lab)
    together = ready.reply(asked, GREEDY)
    alone = [ready.reply([conversation], GREEDY)[0] for conversation in asked]
    assert [(one.text, one.tokens, one.finished, one.intervened) for one in together] == [
        (one.text, one.tokens, one.finished, one.intervened) for one in alone
    ]
    assert len({one.text for one in together}) > 2  # they are replies to different things


@pytest.mark.parametrize("name", ON_THE_LAB)
def test_a_defense_leaves_the_base_model_as_it_was(name: str, lab: Subject) -> None:
    untouched = Subject.load(str(build_base(progress=False)))
    make_defense(name, lab).reply(conversations()[:2], GREEDY)
    assert [module for module, _ in lab.base.named_modules()] == [module for module, _ in untouched.base.named_modules()]
    assert all(torch.equal(one, other) for one, other in zip(lab.base.parameters(), untouched.base.parameters(), strict=True))


def test_no_conversation_is_no_reply(lab: Subject) -> None:
    assert make_defense("none", lab).reply([], GREEDY) == []


# Of the random model no token ends a reply: 4 tokens are 1 pass over the prompt and 3 over one token each.
# The prompts "<s><user>ab<assistant>" and "<s><user>abcd<assistant>" have 5 and 7 tokens: 7 each in a batch.
OWN_REPLIES = (4, 2 * 7 + 3 * 2)
COSTS = {
    "none": OWN_REPLIES,
    "sft": OWN_REPLIES,
    "safe_decoding": (4 + 2, OWN_REPLIES[1] + 2 * 7 + 2),  # the expert reads both prompts, then one token of each
    "self_reminder": (4, 2 * (7 + 4) + 3 * 2),  # "x", a line's end, a line's end and "y" more
    "icd": (4, 2 * (7 + 6) + 3 * 2),  # "<user>", two letters, "<assistant>", two letters more
}
OPTIONS = {"self_reminder": {"before": "x", "after": "y"}, "icd": {"demonstrations": [("ab", "cd")]}}


@pytest.mark.parametrize("name", COSTS)
def test_costs_are_those_counted_by_hand(name: str, random_subject: Subject) -> None:
    ready = make_defense(name, random_subject, **OPTIONS.get(name, {}))
    replies = ready.reply([says("ab"), says("abcd")], ReplySettings(4))
    passes, tokens = COSTS[name]
    assert [(reply.cost.passes, reply.cost.tokens) for reply in replies] == [(passes / 2, tokens / 2)] * 2
    assert all(reply.cost.seconds > 0 for reply in replies)


def test_the_examination_costs_a_second_reply(random_subject: Subject) -> None:
    replies = make_defense("self_examine", random_subject, question="a{reply}", verdict_tokens=3).reply([says("ab")], ReplySettings(4))
    asked = 3 + 1 + len(random_subject.tokenizer(replies[0].text, add_special_tokens=False)["input_ids"])
    assert replies[0].cost.passes == 4 + 3
    assert replies[0].cost.tokens == (5 + 3) + (asked + 2)


def test_sft_says_what_its_adapter_says(random_subject: Subject) -> None:
    asked = [says("ab"), says("abcd")]
    ours = make_defense("sft", random_subject).reply(asked, ReplySettings(8))
    prompts_ = [random_subject.encode(one) for one in asked]
    theirs = reply_batch(random_subject.adapted("sft"), random_subject.tokenizer, prompts_, ReplySettings(8))
    assert [one.text for one in ours] == [one.text for one in theirs]
    assert [one.text for one in ours] != [one.text for one in make_defense("none", random_subject).reply(asked, ReplySettings(8))]


def test_mogu_shifts_its_dial_for_the_reply_only(lab: Subject) -> None:
    model = MoguModel.from_base(twin(lab.base), MoguConfig(router_hidden=8))
    model.tokenizer = lab.tokenizer
    subject = Subject(lab.base, lab.tokenizer, mogu=model.eval())
    asked = conversations()[:3]
    scores = {}
    for dial in (-2.0, 2.0):
        replies = make_defense("mogu", subject, dial=dial).reply(asked, GREEDY)
        scores[dial] = [reply.details["score"] for reply in replies]
        assert all(len(reply.details["unwill"]) == len(reply.details["glad"]) == 4 for reply in replies)
        assert model.dial == 0.0
    # Routers are zero at first: unwill's share is σ(δ) / (σ(δ) + σ(-δ)) = σ(δ), whatever the prompt.
    assert scores[2.0] == pytest.approx([0.880797] * 3, abs=1e-5)
    assert scores[-2.0] == pytest.approx([0.119203] * 3, abs=1e-5)


@pytest.mark.parametrize(("name", "part"), [("sft", "sft"), ("safe_decoding", "expert"), ("detect_inp", "detector.json")])
def test_a_missing_part_is_named(name: str, part: str, lab: Subject) -> None:
    with pytest.raises(ConfigError, match=rf"{part}.*mogu compare"):
        make_defense(name, Subject(lab.base, lab.tokenizer))


@pytest.mark.parametrize(
    ("file", "find", "put"),
    [
        ("adapter_model.safetensors", None, "xx"),
        ("adapter_config.json", None, "{"),
        ("adapter_config.json", "o_proj", "elsewhere"),
        ("adapter_config.json", '"r": 4', '"r": 2'),
    ],
)
def test_a_broken_or_foreign_adapter_is_refused(file: str, find: str | None, put: str, random_subject: Subject, tmp_path: Path) -> None:
    assert random_subject.baselines is not None
    shutil.copytree(random_subject.baselines / "sft", tmp_path / "sft")
    path = tmp_path / "sft" / file
    path.write_text(put if find is None else path.read_text().replace(find, put))
    with pytest.raises(ModelFileError, match="cannot be put into the base model"):
        make_defense("sft", Subject(random_subject.base, random_subject.tokenizer, baselines=tmp_path))


def test_mogu_needs_a_hardened_model(lab: Subject) -> None:
    with pytest.raises(ConfigError, match="plain base model"):
        make_defense("mogu", lab)


@pytest.mark.parametrize(
    ("name", "options", "word"),
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
def test_unusable_options_are_refused_at_the_door(name: str, options: dict[str, object], word: str, lab: Subject) -> None:
    with pytest.raises(ConfigError) as caught:
        make_defense(name, lab, **options)
    assert word in str(caught.value)


def test_a_defense_of_ones_own_is_found_by_its_name(lab: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_REGISTRY", dict(registry_module._REGISTRY))

    @defense("always_no")
    def always_no(subject: Subject, *, politely: bool = True) -> Answer:
        def answer(asked: Sequence[Conversation], settings: ReplySettings) -> list[DefendedReply]:
            return [DefendedReply(REFUSAL if politely else "No.", 0, True, intervened=True) for _ in asked]

        return answer

    assert defense_options("always_no") == {"politely": True}
    (reply,) = make_defense("always_no", lab, politely=False).reply([says("Hello")], GREEDY)
    assert (reply.text, reply.cost.passes) == ("No.", 0)


@pytest.mark.parametrize("name", EVERY)
def test_docstrings_name_a_source_or_say_that_there_is_none(name: str) -> None:
    text = inspect.getdoc(registry_module._REGISTRY[name]) or ""
    assert name == "none" or any(word in text for word in ("et al.", "MoGU, section"))
