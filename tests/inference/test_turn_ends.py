"""What an answer is learned to end with: the template's end of turn, once, and nothing behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mogu.errors import ChatTemplateError
from mogu.inference.prompts import encode_answer, encode_prompt, turn_end
from mogu.inference.replies import ReplySettings, end_tokens, replies
from tests.training.conftest import make_tokenizer

HEADER = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"


def turns(body: str, header: str = HEADER) -> str:
    return "{% for m in messages %}" + body + "{% endfor %}" + header


# What the answer "The Elbe." is to be learned as, and the token that ends a reply.
TEMPLATES = {
    "closed, as in ChatML": (turns("<|{{ m.role }}|>\n{{ m.content }}<|end|>\n"), "The Elbe.<|end|>", "<|end|>"),
    "closed by two tokens, as in Command R": (
        turns("<|{{ m.role }}|>\n{{ m.content }}<|eot|><|end|>\n"),
        "The Elbe.<|eot|><|end|>",
        "<|end|>",
    ),
    "closed by the next turn's mark alone, as in GLM-4": (turns("<|{{ m.role }}|>\n{{ m.content }}"), "The Elbe.<|user|>", "<|user|>"),
    "every turn but the last": (
        turns(
            "<|{{ m.role }}|>\n{{ m.content }}{% if not loop.last %}<|end|>\n{% endif %}",
            "{% if add_generation_prompt %}<|end|>\n<|assistant|>\n{% endif %}",
        ),
        "The Elbe.<|end|>",
        "<|end|>",
    ),
    "the header, asked for or not": (
        turns("<|{{ m.role }}|>\n{{ m.content }}<|end|>\n", "<|assistant|>{{ '\n' }}"),  # Jinja drops a line break at the very end
        "The Elbe.<|end|>",
        "<|end|>",
    ),
    "plain text alone": (
        turns("### {{ m.role }}:\n{{ m.content }}\n", "{% if add_generation_prompt %}### assistant:\n{% endif %}"),
        "The Elbe.</s>",
        "</s>",
    ),
    "trimmed, as in Gemma": (turns("<|{{ m.role }}|>\n{{ m.content | trim }}<|end|>\n"), "The Elbe.<|end|>", "<|end|>"),
    "earlier turns written anew": (
        turns(
            "<|{{ m.role }}|>\n{% if loop.last %}{{ m.content }}{% else %}{{ m.content | upper }}{% endif %}<|end|>\n",
        ),
        "The Elbe.<|end|>",
        "<|end|>",
    ),
}


@pytest.fixture
def words() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|eot|>"]})
    return tokenizer


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_ends_as_the_template_ends_a_turn(name: str, words: PreTrainedTokenizerFast) -> None:
    words.chat_template, expected, end = TEMPLATES[name]
    asked = [{"role": "user", "content": "Name a river."}]
    assert words.decode(encode_answer(words, asked, "The Elbe.", closed=True)) == expected
    assert words.decode(encode_answer(words, asked, "The Elbe.", closed=False)) == "The Elbe."
    longer = [*asked, {"role": "assistant", "content": "The Po."}, {"role": "user", "content": "One more."}]
    assert words.decode(encode_answer(words, longer, "The Elbe.", closed=True)) == expected
    assert turn_end(words) == words.convert_tokens_to_ids(end)


@pytest.mark.parametrize("answer", ["The Elbe.\n", " The Elbe.", "\n\nThe Elbe.  "])
def test_an_answer_is_trimmed_where_the_template_trims(answer: str, words: PreTrainedTokenizerFast) -> None:
    words.chat_template = TEMPLATES["trimmed, as in Gemma"][0]
    assert words.decode(encode_answer(words, "Name a river.", answer, closed=True)) == "The Elbe.<|end|>"
    words.chat_template = TEMPLATES["closed, as in ChatML"][0]
    assert words.decode(encode_answer(words, "Name a river.", answer, closed=True)) == answer + "<|end|>"


def test_without_any_end_there_is_nothing_to_learn(words: PreTrainedTokenizerFast) -> None:
    words.chat_template = TEMPLATES["plain text alone"][0]
    words.eos_token = None
    with pytest.raises(ChatTemplateError, match="ends no turn"):
        encode_answer(words, "Name a river.", "The Elbe.", closed=True)
    assert turn_end(words) is None


def test_a_template_that_only_writes_prompts_says_so_of_an_answer(words: PreTrainedTokenizerFast) -> None:
    words.chat_template = turns("{% if m.role == 'assistant' %}{{ raise_exception('no answers') }}{% endif %}{{ m.content }}<|end|>")
    assert encode_prompt(words, "Name a river.")
    with pytest.raises(ChatTemplateError, match="with its answer: no answers"):
        encode_answer(words, "Name a river.", "The Elbe.", closed=True)
    assert turn_end(words) is None


def test_a_reply_ends_where_the_template_ends_a_turn_whatever_the_generation_settings_name(
    make_base: Callable[..., PreTrainedModel], tokenizer: Any
) -> None:
    """The third token that the model says is made the template's end of turn."""
    model = make_base("llama")
    endless = replies(model, tokenizer, ["abc"], ReplySettings(6))[0]
    ids = model.generate(input_ids=_ids(tokenizer), max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)[0].tolist()[-6:]
    place = next(index for index, token in enumerate(ids) if token not in ids[:index] and index >= 2)
    letter = tokenizer.convert_ids_to_tokens(ids[place])
    assert endless.tokens == 6
    ending = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>", additional_special_tokens=[letter])
    ending.chat_template = tokenizer.chat_template.replace(
        "{{ message.content }}", "{{ message.content }}" + "{% if message.role == 'assistant' %}" + letter + "{% endif %}"
    )
    assert model.generation_config.eos_token_id is None
    assert end_tokens(model, ending) == {ids[place]}
    reply = replies(model, ending, ["abc"], ReplySettings(6))[0]
    assert (reply.tokens, reply.finished) == (place, True)


def _ids(tokenizer: Any) -> Any:
    import torch

    return torch.tensor([encode_prompt(tokenizer, "abc")])
