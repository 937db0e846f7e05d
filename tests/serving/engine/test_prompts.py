"""vLLM's rendering of conversations and tools against the prompts of this library."""

from __future__ import annotations

import copy
import json

import pytest
from vllm.engine.arg_utils import EngineArgs
from vllm.renderers.hf import HfRenderer
from vllm.renderers.params import ChatParams

from mogu.data import offered
from mogu.inference.prompts import encode_prompt

TEMPLATE = """
{%- if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}
{%- for message in messages %}<{{ message.role }}>{% if message.content %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}<call>{{ call.function.name }} {{ call.function.arguments | tojson }}</call>{% endfor %}
{%- endfor %}{% if add_generation_prompt %}<assistant><think>{% endif %}"""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather.",
            "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
        },
    }
]
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"town": "Ulm", "day": None}}}
SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it raining?"}
TALK = [
    SYSTEM,
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": '{"rain": 1}'},
    {"role": "assistant", "content": "It is. "},
    {"role": "user", "content": " And now?\n"},
]


@pytest.fixture(scope="module")
def renderer(base, tokenizer):
    config = EngineArgs(model=base, dtype="float32", max_model_len=512).create_engine_config()
    return HfRenderer(config, tokenizer)


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("turns", [[USER], [SYSTEM, USER], TALK[:4], TALK], ids=["one turn", "system", "result", "turns"])
def test_the_server_s_prompt_is_the_library_s(renderer, tokenizer, turns, tools):
    messages = copy.deepcopy(turns)
    for message in messages:
        for call in message.get("tool_calls", []):  # text over HTTP, an object in templates
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    options = {"tools": tools, "add_generation_prompt": True, "continue_final_message": False, "tokenize": True}
    _, prompt = renderer.render_messages(messages, ChatParams(chat_template=TEMPLATE, chat_template_kwargs=options))
    ours = copy.copy(tokenizer)
    ours.chat_template = TEMPLATE
    assert list(prompt["prompt_token_ids"]) == encode_prompt(ours, offered(turns, tools))
