"""Answers that are listened to: when an alarm rises, what is kept, who goes on, and what a streaming caller sees."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mogu.inference.leaving_rows import LeavingRows
from mogu.inference.padding import left_pad
from mogu.modeling.config import GateConfig
from mogu.modeling.gated.listening import Ear
from tests.gated_models import AFTER, BEFORE, gated_config
from tests.modeling.gated.test_gated_generation import PROMPTS, answers, logit_of, who_answers
from tests.training.conftest import make_tokenizer

pytestmark = pytest.mark.core

NEW = 12
GREEDY = {"do_sample": False, "max_new_tokens": NEW, "pad_token_id": 0}
THRESHOLD = 0.62


@pytest.fixture(scope="module")
def pair(make_gated):
    model, slow = make_gated(config=gated_config(listen=THRESHOLD, hold_back=4))
    # Every seventh token ends a sentence.
    model._sentence_boundary = lambda answer: next((n for n in range(len(answer), 0, -1) if answer[n - 1] % 7 == 0), 0)
    return model, slow


def heard(model, slow, ids: list[int], answer: list[int]) -> list[float]:
    fixed = model.stream.prompt * logit_of(model, slow, ids) + model.stream.bias
    return [1 / (1 + math.exp(-logit)) for logit in slow.stream_logits(ids, answer, model.stream.vectors, fixed)]


def expected_answer(model, slow, ids: list[int], shown: int | None = None) -> tuple[list[int], bool]:
    """The whole answer, and whether it was taken back."""
    who = who_answers(model, slow, ids)
    answer = slow.greedy(ids, who, NEW)
    if who != "base":
        return answer, False
    # The last token is never read: no pass follows it.
    probabilities = heard(model, slow, ids, answer)[: NEW - 1]
    alarm = next((index for index, probability in enumerate(probabilities) if probability >= THRESHOLD), None)
    if alarm is None:
        return answer, False
    calm = [index for index in range(alarm) if probabilities[index] < THRESHOLD / 2]
    safe = answer[: calm[-1] + 1 if calm else 0]
    kept = max(model._sentence_boundary(safe), 0 if shown is None else max(0, alarm + 1 - shown))  # the next token is made, and not shown
    begun = answer[:kept]
    return begun + slow.greedy(ids + begun, "unwill", NEW - len(begun)), True


def test_alarming_answers_are_gone_on_with_by_unwill_from_a_safe_place(pair):
    model, slow = pair
    expected = [expected_answer(model, slow, ids) for ids in PROMPTS]
    taken_back = [ids for ids, (_, back) in zip(PROMPTS, expected, strict=True) if back]
    stay = [ids for ids, (_, back) in zip(PROMPTS, expected, strict=True) if not back and who_answers(model, slow, ids) == "base"]
    assert len(taken_back) >= 2
    assert len(stay) >= 2
    for ids, (answer, _) in zip(PROMPTS, expected, strict=True):
        assert answers(model.generate(torch.tensor([ids]), **GREEDY), len(ids)) == [answer]
    batch = left_pad(PROMPTS, 0, model.device)
    for options in ({}, {"custom_generate": LeavingRows()}):
        output = model.generate(**batch, **GREEDY, **options)
        assert answers(output, batch["input_ids"].shape[1]) == [answer for answer, _ in expected]


def test_some_answers_keep_what_was_harmless(pair):
    """Otherwise the test above would not tell a safe place from the beginning."""
    model, slow = pair
    kept = 0
    for ids in PROMPTS:
        answer, back = expected_answer(model, slow, ids)
        kept += back and answer[0] == slow.greedy(ids, "base", 1)[0] != slow.greedy(ids, "unwill", 1)[0]
    assert kept


class Shown:
    """A streamer that keeps all it gets."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []
        self.tokens: list[int] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        if value.dim() > 1:
            self.prompts.append(value[0].tolist())
        else:
            self.tokens += value.tolist()

    def end(self) -> None:
        self.ended += 1


def test_a_streaming_caller_sees_the_answer_that_stays_and_only_that(pair):
    model, slow = pair
    backs = 0
    for ids in PROMPTS:
        streamer = Shown()
        output = model.generate(torch.tensor([ids]), streamer=streamer, **GREEDY)
        expected, back = expected_answer(model, slow, ids, shown=4)
        assert answers(output, len(ids)) == [expected]
        assert (streamer.prompts, streamer.tokens, streamer.ended) == ([ids], expected, 1)
        backs += back
    assert backs


def test_who_wants_more_than_tokens_or_brings_a_cache_is_not_listened_to(pair):
    model, slow = pair
    ids = next(ids for ids in PROMPTS if expected_answer(model, slow, ids)[1])
    plain = slow.greedy(ids, "base", NEW)
    output: Any = model.generate(torch.tensor([ids]), return_dict_in_generate=True, **GREEDY)
    assert answers(output.sequences, len(ids)) == [plain]


def test_without_a_threshold_nobody_listens(pair):
    model, slow = pair
    ids = next(ids for ids in PROMPTS if expected_answer(model, slow, ids)[1])
    config = model.gate_config
    model.gate_config = GateConfig(before=BEFORE, after=AFTER, refuse=0.7, careful=0.4)
    try:
        assert answers(model.generate(torch.tensor([ids]), **GREEDY), len(ids)) == [slow.greedy(ids, "base", NEW)]
    finally:
        model.gate_config = config


def test_an_ear_keeps_what_stood_before_the_rise():
    ear = Ear(0.8, 1)
    ear._heard[0] = [0.1, 0.5, 0.3, 0.6, 0.9]
    assert ear.harmless_tokens(0) == 3
    ear._heard[0] = [0.5, 0.9]
    assert ear.harmless_tokens(0) == 0


def test_the_end_of_the_last_whole_sentence_is_found_in_the_text(make_gated):
    model, _ = make_gated(config=gated_config(listen=THRESHOLD))
    tokenizer = make_tokenizer()
    model.use_tokenizer(tokenizer)

    def kept(text: str) -> str:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokenizer.decode(ids[: model._sentence_boundary(ids)]).strip()

    assert kept("The sea is calm. Boats come in. And now the") == "The sea is calm. Boats come in."
    assert kept("One line\nand half a second") == "One line"
    assert kept('She said: "Good day." Then she').endswith('Good day."')
    assert kept("no end of a sentence") == ""
