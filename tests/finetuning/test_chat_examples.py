"""What is learned of a conversation, held against labels made from the rendered text alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mogu.data import Chat, Message
from mogu.errors import DataError
from mogu.finetuning.chat_examples import encode_chats
from mogu.training.collator import Collator
from mogu.training.losses import answer_losses

TURNS = [
    ("system", "Be brief."),
    ("user", "How do I clean the kettle?"),
    ("assistant", "Wash the kettle with warm water."),
    ("user", "And the garden?"),
    ("assistant", "Wash the garden, and dry it slowly."),
    ("user", "Thank you."),
]


def chat(*turns: tuple[str, str], name: str = "row 1") -> Chat:
    return Chat(id=name, messages=tuple(Message(role=role, content=content) for role, content in turns))  # type: ignore[arg-type]


def labels_by_text(tokenizer: object, turns: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """Token ids and transformers' labels, from where the answers stand in the rendered text; each ends with the end token."""
    text = tokenizer.apply_chat_template([{"role": role, "content": content} for role, content in turns], tokenize=False)  # type: ignore[attr-defined]
    spans, position = [], 0
    for role, content in turns:
        position = text.index(content, position)
        if role == "assistant":
            # the template's space before an answer is part of what is generated
            spans.append((position - 1, text.index("</s>", position) + len("</s>")))
        position += len(content)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)  # type: ignore[operator]
    inside = [any(start < right and left < end for left, right in spans) for start, end in encoded["offset_mapping"]]
    return encoded["input_ids"], [token if learn else -100 for token, learn in zip(encoded["input_ids"], inside, strict=True)]


def test_only_the_turns_of_the_assistant_are_learned_as_transformers_own_labels_say(base_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    conversations = [TURNS, TURNS[1:3], TURNS[:5]]
    examples = encode_chats(tokenizer, [chat(*turns) for turns in conversations], max_length=256).examples
    with torch.no_grad():
        losses = answer_losses(model, Collator(0, "separate")(examples), "separate")
        for turns, example, loss in zip(conversations, examples, losses, strict=True):
            ids, labels = labels_by_text(tokenizer, turns)
            assert [example.ids[position] for position in example.learned] == [label for label in labels if label != -100]
            expected = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
            torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_a_template_that_rewrites_the_past_gives_each_turn_the_prompt_that_generation_would_build(base_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    # As reasoning models do: of earlier answers only what follows the thoughts is kept.
    tokenizer.chat_template = (
        "{% for message in messages %}<|{{ message.role }}|> "
        "{% if message.role == 'assistant' and not loop.last %}{{ message.content.split('#')[-1] }}"
        "{% else %}{{ message.content }}{% endif %}"
        "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    turns = [("user", "One?"), ("assistant", "thoughts#First."), ("user", "Two?"), ("assistant", "more thoughts#Second.")]
    first, second = encode_chats(tokenizer, [chat(*turns)], max_length=256).examples
    assert tokenizer.decode([first.ids[position] for position in first.learned]).strip() == "thoughts#First.</s>"
    assert tokenizer.decode([second.ids[position] for position in second.learned]).strip() == "more thoughts#Second.</s>"
    assert "First." in tokenizer.decode(second.ids)
    assert "thoughts#First" not in tokenizer.decode(second.ids)


def test_the_system_prompt_opens_conversations_that_have_none(base_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    own, added = encode_chats(tokenizer, [chat(*TURNS[:3]), chat(*TURNS[1:3])], max_length=256, system_prompt="Be brief.").examples
    assert own.ids == added.ids


def test_conversations_over_length_are_an_error_or_left_out(base_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    chats = [chat(*TURNS[1:3]), chat(*TURNS, name="row 2"), chat(*TURNS, name="row 3")]
    with pytest.raises(DataError, match="The conversation row 2 and 1 more are longer than 30 tokens"):
        encode_chats(tokenizer, chats, max_length=30)
    encoded = encode_chats(tokenizer, chats, max_length=30, drop_long=True)
    assert ([one.record_id for one in encoded.examples], encoded.dropped) == (["row 1"], ["row 2", "row 3"])
    with pytest.raises(DataError, match="All 2 conversations are longer"):
        encode_chats(tokenizer, chats[1:], max_length=30, drop_long=True)


def test_an_answer_to_nothing_is_an_error(base_folder: Path) -> None:
    with pytest.raises(DataError, match="begins with the assistant's turn"):
        encode_chats(AutoTokenizer.from_pretrained(base_folder), [chat(("assistant", "Hello."))], max_length=30)
