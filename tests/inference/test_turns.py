"""Where a prompt's user turns and its answer are, in the templates that ship and in templates of other kinds."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from mogu.inference.prompts import encode_prompt
from mogu.inference.turns import PromptSpans, TurnMarks, find_turn_marks
from tests.training.conftest import make_tokenizer

pytestmark = pytest.mark.core

TEMPLATES = {
    "roles": None,
    "chatml": (
        "{% if messages[0].role != 'system' %}<|system|>Be kind.</s>\n{% endif %}"
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "brackets": (
        "{% for m in messages %}"
        "{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>{% endif %}"
        "{% endfor %}"
    ),
    "words": (
        "{% for m in messages %}"
        "{% if m.role == 'user' %}USER: {{ m.content }} {% else %}ASSISTANT: {{ m.content }}</s>{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
}


@pytest.fixture(params=TEMPLATES)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    found = make_tokenizer()
    found.chat_template = TEMPLATES[request.param] or found.chat_template
    return found


def texts(tokenizer: PreTrainedTokenizerFast, ids: list[int], spans: PromptSpans) -> list[str]:
    return [tokenizer.decode(ids[start:stop]).strip() for start, stop in spans.user]


def test_each_turn_of_the_user_is_found(tokenizer: PreTrainedTokenizerFast) -> None:
    marks = find_turn_marks(tokenizer)
    talk = [
        {"role": "user", "content": "How do I clean the kettle?"},
        {"role": "assistant", "content": "With water."},
        {"role": "user", "content": "And the garden, the window: what of these?"},
    ]
    ids = encode_prompt(tokenizer, talk)
    spans = marks.spans(ids)
    assert texts(tokenizer, ids, spans) == [talk[0]["content"], talk[2]["content"]]
    assert spans.last == len(ids) - 1
    assert spans.end == spans.user[-1][1] - 1


def test_an_answer_that_has_begun_stands_behind_the_last_token(tokenizer: PreTrainedTokenizerFast) -> None:
    marks = find_turn_marks(tokenizer)
    asked = encode_prompt(tokenizer, "How do I clean the kettle?")
    begun = asked + tokenizer(" Wash the kettle", add_special_tokens=False)["input_ids"]
    assert marks.spans(begun) == marks.spans(asked)
    assert marks.spans(begun).last == len(asked) - 1


def test_a_prompt_without_the_marks_is_all_the_user_s() -> None:
    assert TurnMarks((5,), (6,)).spans([1, 2, 3]) == PromptSpans(((0, 3),), 2, 2)
    assert TurnMarks().spans([1, 2, 3]) == PromptSpans(((0, 3),), 2, 2)


def test_a_turn_that_says_nothing_is_no_turn() -> None:
    marks = TurnMarks((5,), (6, 7))
    assert marks.spans([5, 1, 2, 6, 7, 9, 5, 6, 7]) == PromptSpans(((1, 3),), 2, 4)


def test_the_header_before_an_answer_counts_also_behind_the_words_of_a_tool() -> None:
    marks = TurnMarks((5,), (6, 7), (7,))
    assert marks.spans([5, 1, 6, 7, 20, 21, 30, 31, 7]).last == 8
