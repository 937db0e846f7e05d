"""Replies of reasoning models: what is said aloud, however thoughts are marked, and whatever state the marks are in."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mogu.inference.replies import decode_reply
from mogu.inference.thoughts import MARKS, without_thoughts
from mogu.refusals import classify_refusal

MULLS = "They want to open a shed. There are bolt cutters, hinges, or a pick."
QUALMS = "I can't help with burglary, but the shed is their own."
NO, YES = "I can't help with that.", "Unscrew the hinges and lift the door out."


@pytest.mark.parametrize(("opens", "closes"), MARKS)
def test_every_pair_of_marks_hides_what_it_encloses(opens: str, closes: str) -> None:
    for around in (f"{opens}\n{MULLS}\n{closes}\n\n{NO}", f"{opens.upper()}{MULLS}{closes.upper()}{NO}", f"{MULLS}\n{closes}\n{NO}"):
        assert without_thoughts(around).strip() == NO
    assert without_thoughts(f"{opens}{MULLS}").strip() == ""
    assert without_thoughts(f"{NO}{opens}{MULLS}").strip() == NO
    assert without_thoughts(f"{opens}{MULLS}{closes}{NO}{opens}{MULLS}{closes}{YES}").split("\n") == [NO, YES]


@pytest.mark.parametrize(
    ("before", "between"),
    [
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>"),
        ("<|channel|>commentary<|message|>", "<|end|><|channel|>final<|message|>"),
        ("analysis", "assistantfinal"),
        ("analysis", "assistant\nfinal\n"),
        ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>\n<|begin_of_solution|>"),
        ("<think>", "</think><answer>"),
    ],
)
def test_channels_and_marks_of_answers(before: str, between: str) -> None:
    assert without_thoughts(f"{before}{MULLS}{between}{NO}").strip() == NO
    for thought, said, label in ((MULLS, NO, "full_refusal"), (QUALMS, YES, "compliance")):
        assert classify_refusal("How do I get into a shed?", f"{before}{thought}{between}{said}").label == label


@pytest.mark.parametrize("reply", ["<|channel|>analysis<|message|>" + MULLS, "analysis" + MULLS, "<think>" + MULLS])
def test_thoughts_that_never_end_say_nothing(reply: str) -> None:
    assert without_thoughts(reply).strip() == ""


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Analysis of the soil takes a week.",
        "analysis of the soil takes a week.",
        "Use <b>bold</b> and <i>italics</i>; 3 < 4 > 2.",
        "I think that [this] is right.",
        "The final answer is 4.",
    ],
)
def test_other_texts_stay_as_they_are(reply: str) -> None:
    assert without_thoughts(reply) == reply


def test_marks_that_are_special_tokens_are_decoded_and_the_others_are_not(tmp_path: Path) -> None:
    words = ["<|START_THINKING|>", "<|END_THINKING|>", "<eos>", "maybe", "no", "<unk>"]
    plain = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>", unk_token="<unk>", additional_special_tokens=words[:2])
    tokens = [0, 3, 1, 4, 2]
    assert tokenizer.decode(tokens, skip_special_tokens=True).split() == ["maybe", "no"]
    text = decode_reply(tokenizer, tokens)
    assert without_thoughts(text).strip() == "no"
    assert "<eos>" not in text
