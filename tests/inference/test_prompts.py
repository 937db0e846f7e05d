"""System prompts, tools, calls, results and reasoning blocks in three templates: every way to a prompt against ``apply_chat_template``."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mogu import MoguConfig, MoguModel
from mogu.analysis.answer_openings import AnswerOpenings
from mogu.analysis.labeled_instructions import read_labeled_instructions
from mogu.analysis.tendency import OpeningEncoder
from mogu.data import Record, conversation_of, inspect_records, offered, read_records, read_tools, write_records
from mogu.errors import ChatTemplateError, DataError
from mogu.evaluation.prompt_sources import prompts_of_records
from mogu.inference.prompts import WithTools, encode_answer, encode_prompt, fixed_date, render_prompt
from mogu.inference.replies import ReplySettings, replies
from mogu.training.examples import responder_examples, router_examples

SPECIAL = ["<pad>", "<s>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>", "<think>", "</think>", "<call>", "</call>"]

# In the manner of ChatML with tools: definitions in the system turn, results in a user turn, earlier reasoning left out.
CHATML = """
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}Tools:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}<|im_start|>user
{{ message.content }}<|im_end|>
{% elif message.role == 'assistant' %}<|im_start|>assistant
{% if message.content %}{{ message.content.split('</think>')[-1].lstrip() }}{% endif %}
{%- for call in message.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}<|im_end|>
{% elif message.role == 'tool' %}<|im_start|>user
<result>{{ message.content }}</result><|im_end|>
{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# In the manner of Llama 3.1: a system turn always, definitions in the first user turn, one call a turn, results under a role of their own.
HEADERS = """
{%- set known = namespace(told=false) %}<s><|start|>system<|end|>

{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}<|eot|>
{%- for message in messages if message.role != 'system' %}
{%- if message.role == 'user' and tools and not known.told %}{% set known.told = true %}<|start|>user<|end|>

{% for tool in tools %}{{ tool.function.name }}{{ tool.function.parameters | tojson }}
{% endfor %}{{ message.content | trim }}<|eot|>
{%- elif message.tool_calls is defined %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception('one call a turn') }}{% endif %}<|start|>assistant<|end|>

{% set call = message.tool_calls[0].function %}{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}<|eot|>
{%- else %}<|start|>{{ 'ipython' if message.role == 'tool' else message.role }}<|end|>

{{ message.content | trim }}<|eot|>
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}<|start|>assistant<|end|>

{% endif %}"""

THINKING = CHATML.replace(
    "{%- if add_generation_prompt %}<|im_start|>assistant\n", "{%- if add_generation_prompt %}<|im_start|>assistant\n<think>"
)

TEMPLATES = {"chatml": CHATML, "headers": HEADERS, "thinking": THINKING}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a town — now.",
            "parameters": {
                "type": "object",
                "properties": {"town": {"type": "string", "default": None}, "day": {"enum": ["today", "tomorrow"]}},
                "required": ["town"],
            },
        },
    },
    {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}},
]
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"town": "Köln", "day": None}}}
USER, SYSTEM = {"role": "user", "content": "Is it raining?"}, {"role": "system", "content": "Be brief."}
CALLED = [
    USER,
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "tool_call_id": "c1", "content": '{"rain": 1}'},
]
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one turn": [USER],
    "system": [SYSTEM, USER],
    "turns": [
        SYSTEM,
        USER,
        {"role": "assistant", "content": "<think>Look out.</think>\n\nIt is."},
        {"role": "user", "content": "And now? "},
    ],
    "result": [SYSTEM, *CALLED],
    "after a result": [*CALLED, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Thanks. Where?"}],
    "empty content": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, *CALLED[2:]],
}
every_template = pytest.mark.parametrize("template", TEMPLATES)
every_conversation = pytest.mark.parametrize("conversation", CONVERSATIONS)
with_and_without = pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])


@pytest.fixture(scope="module")
def letters() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet)
    inner.train_from_iterator([CHATML, HEADERS, json.dumps(TOOLS)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<|im_end|>", pad_token="<pad>", padding_side="left")


@pytest.fixture
def tokenizer(letters: PreTrainedTokenizerFast, template: str) -> PreTrainedTokenizerFast:
    letters.chat_template = TEMPLATES[template]
    return letters


@pytest.fixture(scope="module")
def make_model(letters: PreTrainedTokenizerFast) -> Callable[[PreTrainedTokenizerFast], MoguModel]:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=len(letters), eos_token_id=letters.eos_token_id, pad_token_id=0, **shape)).eval()
    model = MoguModel.from_base(base, MoguConfig(rank=2, lora_alpha=4))
    model.tokenizer = letters
    return lambda tokenizer: model


def record(conversation: list[dict[str, Any]], tools: list[dict[str, Any]] | None, **fields: Any) -> Record:
    settings = {"id": "r1", "label": "benign", "affirm": "Yes, it is raining.", "reject": "I can't help with rain."} | fields
    return Record.model_validate(settings | {"messages": conversation} | ({"tools": tools} if tools else {}))


def applied(tokenizer: PreTrainedTokenizerFast, conversation: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> list[int]:
    return tokenizer.apply_chat_template(conversation, tools=tools, add_generation_prompt=True)["input_ids"]


@every_template
@every_conversation
@with_and_without
def test_training_and_generation_build_the_template_s_own_prompt(
    tokenizer: PreTrainedTokenizerFast, make_model: Any, conversation: str, tools: list[dict[str, Any]] | None
) -> None:
    turns = CONVERSATIONS[conversation]
    expected = applied(tokenizer, turns, tools)
    assert encode_prompt(tokenizer, offered(turns, tools)) == expected

    one = record(turns, tools)
    assert encode_prompt(tokenizer, conversation_of(one, None)) == expected
    [example] = router_examples(tokenizer, [one], max_length=2048)
    assert list(example.prompt) == expected
    [pair] = responder_examples(tokenizer, [one], answer="reject", max_length=2048)
    assert list(pair.prompt) == expected

    model = make_model(tokenizer)
    read: list[list[int]] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, args: read.append(args[0][0].tolist()))
    try:
        model.score([conversation_of(one, None)])
        replies(model, tokenizer, [conversation_of(one, None)], ReplySettings(1))
    finally:
        hook.remove()
    assert read == [expected, expected]


@every_template
@every_conversation
@with_and_without
def test_an_answer_to_learn_is_what_the_template_writes(
    tokenizer: PreTrainedTokenizerFast, template: str, conversation: str, tools: list[dict[str, Any]] | None
) -> None:
    turns = CONVERSATIONS[conversation]
    said = {"role": "assistant", "content": "Yes, it is raining."}
    whole = tokenizer.apply_chat_template([*turns, said], tools=tools)["input_ids"]
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    while whole[-1:] == newline:  # between turns, after the token that ends one
        whole = whole[:-1]
    answer = encode_answer(tokenizer, offered(turns, tools), said["content"], closed=True)
    if template == "thinking":  # whose prompt opens a block that it leaves out of what was said: the answer starts in the block
        assert answer == tokenizer("Yes, it is raining.<|im_end|>", add_special_tokens=False)["input_ids"]
    else:
        assert applied(tokenizer, turns, tools) + answer == whole
    opening = encode_answer(tokenizer, offered(turns, tools), said["content"], closed=False)
    assert opening == answer[: len(opening)] == tokenizer("Yes, it is raining.", add_special_tokens=False)["input_ids"]


def test_an_empty_block_that_a_template_writes_is_part_of_the_answer(letters: PreTrainedTokenizerFast) -> None:
    """In the manner of Qwen3, whose prompt opens no block, and whose template closes an empty one before an answer without reasoning."""
    letters.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    answer = encode_answer(letters, [USER], "Yes, it is.", closed=True)
    assert letters.decode(answer) == "<think>\n\n</think>\n\nYes, it is.<|im_end|>"
    whole = letters.apply_chat_template([USER, {"role": "assistant", "content": "Yes, it is."}])["input_ids"]
    assert encode_prompt(letters, [USER]) + answer == whole[: len(applied(letters, [USER], None)) + len(answer)]


@pytest.mark.parametrize("template", ["chatml", "headers"])
def test_an_answer_that_has_been_begun_goes_on_where_it_stands(tokenizer: PreTrainedTokenizerFast) -> None:
    asked = [{"role": "user", "content": "Is it raining in Bergen?"}]
    begun = [*asked, {"role": "assistant", "content": "Yes, and"}]
    assert render_prompt(tokenizer, begun) == render_prompt(tokenizer, asked) + "Yes, and"
    later = [*begun, *asked]
    assert encode_prompt(tokenizer, later) == applied(tokenizer, later, None)  # only the last turn goes on


@pytest.mark.parametrize("template", ["chatml"])
def test_a_call_of_a_tool_is_no_answer_that_has_been_begun(tokenizer: PreTrainedTokenizerFast) -> None:
    call = {"function": {"name": "weather", "arguments": {}}}
    called = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    assert render_prompt(tokenizer, called).endswith("<|im_start|>assistant\n")


@every_template
def test_a_system_prompt_of_the_recipe_is_the_template_s_system_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    for tools in (None, TOOLS):
        [example] = router_examples(tokenizer, [record(CALLED, tools)], max_length=2048, system_prompt="Be brief.")
        assert list(example.prompt) == applied(tokenizer, [SYSTEM, *CALLED], tools)
        [own] = router_examples(tokenizer, [record([SYSTEM, *CALLED], tools)], max_length=2048, system_prompt="Be long.")
        assert own.prompt == example.prompt


@every_template
def test_tendency_asks_with_the_same_prompt(tokenizer: PreTrainedTokenizerFast, tmp_path: Any) -> None:
    write_records(tmp_path / "r.jsonl", [record(CALLED, TOOLS)])
    [one] = read_labeled_instructions(tmp_path / "r.jsonl")
    assert one.instruction == "Is it raining?"
    encoder = OpeningEncoder(tokenizer, AnswerOpenings(("Sure, here",), ("I'm sorry",)))
    silent = [*CALLED[:2], CALLED[2] | {"content": ""}]
    assert list(encoder.encode(WithTools(silent, TOOLS)).prompt) == applied(tokenizer, silent, TOOLS)
    question = encoder.encode(offered(one.conversation, one.tools))
    assert list(question.prompt) == applied(tokenizer, CALLED, TOOLS)
    assert list(question.openings[0]) == tokenizer("Sure, here", add_special_tokens=False)["input_ids"]


@every_conversation
def test_records_bring_messages_and_tools_back_unchanged(conversation: str, tmp_path: Any) -> None:
    """Down to the order of the keys, to nulls, and to what was left out: templates write and ask for all of these."""
    one = record(CONVERSATIONS[conversation], TOOLS)
    two = record(CONVERSATIONS[conversation], None, id="r2", label="malicious")
    write_records(tmp_path / "r.jsonl", [one, two])
    back = read_records(tmp_path / "r.jsonl")
    assert [made.tools for made in back] == [tuple(TOOLS), None]
    for made in back:
        assert made.conversation == CONVERSATIONS[conversation]
        for found, given in zip(made.conversation, CONVERSATIONS[conversation], strict=True):
            assert json.dumps(found.get("tool_calls")) == json.dumps(given.get("tool_calls"))
    assert json.dumps(back[0].tools) == json.dumps(TOOLS)
    assert back[0].request == [message for message in CONVERSATIONS[conversation] if message["role"] == "user"][-1]["content"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tools": []}, "field 'tools'"),
        ({"tools": [{"name": "clock"}]}, "field 'tools.0': a tool, or a call of one, has the form"),
        ({"tools": [{"type": "function", "function": "clock"}]}, "field 'tools.0'"),
        ({"messages": [USER, {"role": "tool", "content": "1"}]}, "must follow the assistant's 'tool_calls'"),
        ({"messages": [*CALLED[:2], {"role": "tool", "name": "weather"}]}, "the result of a tool has no 'content'"),
        ({"messages": [USER, {"role": "assistant", "content": ""}, USER]}, "field 'messages.1': the text of a message is empty"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": []}, USER]}, "field 'messages.1.tool_calls'"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "clock"}]}, USER]}, "field 'messages.1.tool_calls.0'"),
        ({"messages": [USER | {"tool_calls": [CALL]}]}, "role 'user' cannot call tools"),
        ({"messages": [USER | {"name": "Ann"}]}, "are for the role 'tool'"),
        ({"messages": CALLED[:2]}, "must end with a message of the role 'user', or with the result of a tool"),
        ({"messages": CALLED[1:]}, "must hold a message of the role 'user'"),
    ],
)
def test_what_is_wrong_with_a_record_is_named(change: dict[str, Any], complaint: str, tmp_path: Any) -> None:
    fields = {"id": "r1", "label": "benign", "messages": CALLED, "affirm": "Yes.", "reject": "No."} | change
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(fields) + "\n")
    assert any(complaint in str(problem) for problem in inspect_records(path).problems), inspect_records(path).problems


def test_a_template_that_says_nothing_of_tools_is_refused(letters: PreTrainedTokenizerFast) -> None:
    letters.chat_template = "{% for message in messages %}<|im_start|>{{ message.content }}{% endfor %}"
    assert encode_prompt(letters, [USER])
    with pytest.raises(ChatTemplateError, match="says nothing of the tools"):
        encode_prompt(letters, WithTools([USER], TOOLS))


def test_files_of_tools(tmp_path: Any) -> None:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(TOOLS))
    assert json.dumps(read_tools(path)) == json.dumps(TOOLS)
    for text, complaint in (("[]", "empty list"), ("{}", "list"), ('[{"name": "x"}]', "tool 0: a tool, or a call"), ("[", "cut off")):
        path.write_text(text)
        with pytest.raises(DataError, match=complaint):
            read_tools(path)


def test_records_with_tools_are_no_prompts_for_a_comparison_of_defenses() -> None:
    with pytest.raises(DataError, match="'r1' uses tools"):
        prompts_of_records([record(CALLED, None)], "own")
    assert prompts_of_records([record([SYSTEM, USER], None)], "own")[0].request == "Is it raining?"


def test_a_fixed_date_is_the_date_that_templates_write(letters: PreTrainedTokenizerFast) -> None:
    dated = copy.copy(letters)
    dated.chat_template = (
        "{%- set today = strftime_now('%d %b %Y') if strftime_now is defined else 'long ago' %}\n"
        '{{ today }} {{ strftime_now("%A") }}{% for message in messages %} {{ message["content"] }}{% endfor %}'
    )
    with fixed_date(datetime(2024, 2, 29)):
        assert render_prompt(dated, "hello") == "29 Feb 2024 Thursday hello"
    assert render_prompt(dated, "hello") == f"{datetime.now():%d %b %Y %A} hello"
