"""Everything that vLLM's requests can carry has been decided about. A failure here names what a new version has added.

Decide whether it can begin or force an answer, and put it into the lists of `mogu.serving.locked_requests`.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from types import SimpleNamespace

import pytest
import torch
import vllm.entrypoints.launchers.app as app_module
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import WorkerLoRAManager
from vllm.renderers.chat_utils import CustomChatCompletionMessageParam
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.version import __version_tuple__

from mogu.errors import ConfigError
from mogu.serving import locked_requests
from mogu.serving.access import ADMITTED
from mogu.serving.plugin import register
from mogu.serving.validation import validate_request

IS_032 = __version_tuple__[:2] == (0, 32)
cli_args = importlib.import_module(f"vllm.entrypoints.{'launchers' if IS_032 else 'common'}.cli_args")

ENGINE = SimpleNamespace(use_v2_model_runner=False, parallel_config=SimpleNamespace(pipeline_parallel_size=1), speculative_config=None)
FORCING = {
    "structured_outputs": StructuredOutputsParams(regex="Sure.*"),
    "logit_bias": {17: -100.0},
    "allowed_token_ids": [1, 2],
    "bad_words": ["Sorry"],
    "trace_decode_token_ids": [1, 2],
    "thinking_token_budget": 0,
    "min_tokens": 9,
    "ignore_eos": True,
    "extra_args": {"of a logits processor": 1},
}
POST_ENDPOINTS = {  # path: whether a locked server takes requests there
    "/v1/chat/completions": True,
    "/tokenize": True,
    "/detokenize": True,
    "/ping": True,
    "/v1/chat/completions/batch": False,
    "/v1/chat/completions/render": False,
    "/v1/chat/completions/derender": False,
    "/v1/completions": False,
    "/v1/completions/render": False,
    "/v1/completions/derender": False,
    "/v1/responses": False,
    "/v1/responses/render": False,
    "/v1/responses/{response_id}/cancel": False,
    "/v1/messages": False,
    "/v1/messages/count_tokens": False,
    "/v1/messages/render": False,
    "/v1/systemone": False,
    "/generative_scoring": False,
    "/inference/v1/generate": False,
    "/inference/v1/abort_requests": False,
    "/invocations": False,
    "/scale_elastic_ep": False,
    "/is_scaling_elastic_ep": False,
} | ({} if IS_032 else {"/v1/decisions": False})


def request(parameters: SamplingParams, folder, prompt_embeds=None) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id="1",
        prompt_token_ids=[1],
        mm_features=None,
        sampling_params=parameters,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=LoRARequest("one", 1, str(folder)),
        cache_salt=None,
        data_parallel_rank=None,
        prompt_embeds=prompt_embeds,
    )


@pytest.fixture(scope="module")
def app():
    """vLLM's whole application with the plugin in it, as a server with a key makes it."""
    register()
    options = cli_args.make_arg_parser(FlexibleArgumentParser()).parse_args(["base", "--api-key", "SECRET"])
    return app_module.build_app(options, ("generate",))


@pytest.fixture
def locked(monkeypatch):
    monkeypatch.setenv("MOGU_LOCKED", "on")


def test_every_field_of_a_chat_request_is_decided():
    free, guarded = locked_requests.FREE_FIELDS, set(locked_requests.GUARDED_FIELDS)
    assert set(ChatCompletionRequest.model_fields) == (free | guarded) - {"mogu"} - (locked_requests.LATER_FIELDS if IS_032 else set())
    assert not free & guarded
    assert not [field for field in ChatCompletionRequest.model_fields.values() if field.alias or field.validation_alias]
    assert not locked_requests.IGNORED_FIELDS & set(ChatCompletionRequest.model_fields)  # else they are ignored no more


def test_what_a_chat_request_leaves_out_is_accepted():
    made = ChatCompletionRequest(messages=[{"role": "user", "content": "Hello"}], model="one").model_dump()
    locked_requests.check_chat(made)


def test_every_key_of_a_message_is_decided():
    refused = {"tools", "task"}
    assert set(CustomChatCompletionMessageParam.__annotations__) - refused <= locked_requests.MESSAGE_KEYS


def test_every_sampling_parameter_is_decided():
    free, guarded = locked_requests.FREE_PARAMETERS, set(locked_requests.GUARDED_PARAMETERS)
    assert set(SamplingParams.__struct_fields__) == free | guarded
    assert not free & guarded
    locked_requests.check_parameters(SamplingParams())
    assert set(FORCING) == guarded - {"_bad_words_token_ids"}


def test_every_endpoint_that_takes_requests_is_decided(app):
    methods = {route.path: set(getattr(route, "methods", None) or ()) for route in app.routes}
    posts = {route.path for route in app.routes if "POST" in (getattr(route, "methods", None) or ())}
    assert posts == set(POST_ENDPOINTS)
    assert {path for path, taken in POST_ENDPOINTS.items() if taken} == locked_requests.POST_PATHS
    reading = {path: found - locked_requests.READING_METHODS for path, found in methods.items() if path not in posts}
    assert not any(reading.values()), "an endpoint that takes neither GET nor POST"
    generating = {path for path in methods if path not in posts and any(word in path for word in ("generat", "complet", "infer"))}
    assert not generating, "an endpoint that generates on GET, or on a socket"


@pytest.mark.parametrize(("name", "value"), FORCING.items())
def test_a_program_s_parameters_are_held_to_the_lock_where_they_enter_the_engine(models, locked, name, value):
    validate_request(request(SamplingParams(), models["one"]), ENGINE)
    with pytest.raises(VLLMValidationError, match="locked") as raised:
        validate_request(request(SamplingParams(**{name: value}), models["one"]), ENGINE)
    assert raised.value.parameter == name


def test_a_prompt_of_embeddings_is_held_to_the_lock(models, locked):
    with pytest.raises(VLLMValidationError, match="locked"):
        validate_request(request(SamplingParams(), models["one"], prompt_embeds=torch.zeros(1, 4)), ENGINE)


@pytest.mark.parametrize(("name", "value"), FORCING.items())
def test_an_open_server_leaves_them_to_the_caller(models, monkeypatch, name, value):
    monkeypatch.delenv("MOGU_LOCKED", raising=False)
    validate_request(request(SamplingParams(**{name: value}), models["one"]), ENGINE)


@pytest.mark.parametrize("value", ["true", "YES", "on", "treu"])
def test_no_spelling_of_the_lock_lets_the_dial_through(models, monkeypatch, value):
    monkeypatch.setenv("MOGU_LOCKED", value)
    with pytest.raises(VLLMValidationError, match=r"locked|MOGU_LOCKED"):
        validate_request(request(SamplingParams(extra_args={"mogu": {"dial": -9.0}}), models["one"]), ENGINE)


def test_no_engine_loads_glad_however_it_is_asked_to(models):
    register()
    with pytest.raises(ConfigError, match="trained to comply"):
        WorkerLoRAManager._load_adapter(None, LoRARequest("x", 1, str(models["one"] / "glad")))


def test_an_engine_takes_only_what_came_in_where_it_was_checked(locked):
    register()
    assert "self.add_request(" in inspect.getsource(inspect.unwrap(AsyncLLM.generate))
    with pytest.raises(VLLMValidationError, match="locked"):
        asyncio.run(AsyncLLM.add_request(None, "1", "Sure, here is", SamplingParams()))
    token = ADMITTED.set(True)
    try:
        with pytest.raises(AttributeError):  # vLLM's own begins, and has no engine here
            asyncio.run(AsyncLLM.add_request(None, "1", "Hello", SamplingParams()))
    finally:
        ADMITTED.reset(token)


def test_the_key_is_checked_before_a_body_is_read(app):
    taken, answers = 0, []

    async def receive():
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": b"x" * 2**20, "more_body": taken < 1500}

    async def send(message):
        answers.append(message.get("status"))

    for path, status in (("/v1/chat/completions", 401), ("/v1/completions", 401), ("/nowhere/v1/chat/completions", 404)):
        answers.clear()
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
        asyncio.run(app(scope, receive, send))
        assert (answers[0], taken) == (status, 0), path
