"""What sides say when they are asked together is what each says alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mogu.defenses import TargetModel, make_defense
from mogu.errors import ConfigError
from mogu.inference.prompts import encode_prompt
from mogu.inference.replies import ReplySettings, replies
from mogu.playground.answering import Event, Question, answer
from mogu.playground.sides import Side

TALK = [{"role": "user", "content": "How do I bake bread?"}]
LATER = [*TALK, {"role": "assistant", "content": "Slowly."}, {"role": "user", "content": "And fast?"}]
SETTINGS = ReplySettings(10)


def events_of(questions: list[Question], **options: Any) -> list[Event]:
    events: list[Event] = []
    answer(questions, SETTINGS, events.append, **options)
    return events


def alone(side: Side, conversation: Any, dial: float | None = None) -> str:
    with side.model.routing("on" if side.hardened is not None else "off", dial=dial):
        return replies(side.model, side.tokenizer, [conversation], SETTINGS)[0].text


def test_two_conversations_stream_from_one_batch_and_stay_apart(sides: list[Side], monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    generate = type(sides[0].model).generate

    def counted(self: Any, inputs: Any = None, **options: Any) -> Any:
        batches.append(len(options["input_ids"]))
        return generate(self, inputs, **options)

    monkeypatch.setattr(type(sides[0].model), "generate", counted)
    events = events_of([Question(sides[0], LATER, 0), Question(sides[1], TALK, 1)])
    assert batches == [2]
    expected = [alone(sides[0], LATER), alone(sides[1], TALK)]
    assert expected[0] != expected[1]
    for column in (0, 1):
        mine = [event for event in events if event["column"] == column]
        assert "".join(event["text"] for event in mine if event["type"] == "token").strip() == expected[column]
        assert mine[-1]["type"] == "reply"
        assert mine[-1]["text"] == expected[column]
        assert mine[-1]["verdict"] in ("full_refusal", "partial_refusal", "compliance")
    (why,) = [event for event in events if event["type"] == "why"]
    assert why["column"] == 1
    assert why["score"] == pytest.approx(float(sides[1].model.score([TALK])[0]), abs=1e-6)
    assert "".join(why["tokens"][:-1]) == TALK[0]["content"]


def test_sides_of_two_models_answer_at_the_same_time(sides: list[Side], routed_sides: list[Side]) -> None:
    asked = [sides[1], routed_sides[0], routed_sides[1]]
    events = events_of([Question(side, TALK, column) for column, side in enumerate(asked)], dial=0.5)
    texts = {event["column"]: event["text"] for event in events if event["type"] == "reply"}
    assert texts == {column: alone(side, TALK, 0.5) for column, side in enumerate(asked)}
    scores = {event["column"]: event["kind"] for event in events if event["type"] == "why"}
    assert scores == {0: "gate", 2: "routers"}


def test_the_dial_of_one_question_is_nobody_elses(sides: list[Side], gated: Any) -> None:
    gated.gate_config = gated.gate_config.model_copy(update={"refuse": 0.5})
    ids = encode_prompt(sides[0].tokenizer, TALK)
    logit = float(gated.prompt_logits(torch.tensor([ids]))[0])
    below, above = (events_of([Question(sides[1], TALK, 0)], dial=-logit + shift)[-1]["text"] for shift in (-1, 1))
    assert below == alone(sides[0], TALK)
    assert above == alone(sides[1], TALK, -logit + 1)
    assert below != above
    assert gated.dial == 0


def test_another_defense_answers_beside_them(make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast) -> None:
    target = TargetModel(make_base(), tokenizer)
    defense = make_defense("self_reminder", target)
    side = Side("reminder", "defense", target.base, tokenizer, defense=defense)
    plain = Side("plain", "plain", target.base, tokenizer)
    events = events_of([Question(plain, TALK, 0), Question(side, TALK, 1)])
    texts = {event["column"]: event["text"] for event in events if event["type"] == "reply"}
    assert texts == {0: replies(target.base, tokenizer, [TALK], SETTINGS)[0].text, 1: defense.reply([TALK], SETTINGS)[0].text}


def test_an_answer_ends_where_it_is_stopped(sides: list[Side]) -> None:
    events: list[Event] = []
    answer([Question(side, TALK, column) for column, side in enumerate(sides)], SETTINGS, events.append, stopped=lambda: len(events) > 4)
    assert sum(event["type"] == "token" for event in events) < 8
    assert [event["finished"] for event in events if event["type"] == "reply"] == [False, False]


def test_a_conversation_that_is_too_long_is_refused_in_words(sides: list[Side]) -> None:
    with pytest.raises(ConfigError, match="at most 64 tokens"):
        events_of([Question(sides[0], [{"role": "user", "content": "a" * 60}], 0)])
