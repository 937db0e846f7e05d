"""What a locked server answers: endpoints, request fields and sampling parameters that leave the answer to the model.

The routed opening protects the first tokens of an answer. A client that writes or forces these tokens has nothing routed, so
a locked server takes only what is known to do neither. Everything is decided by lists of what is accepted: what nobody has
decided about is refused.

Knows the names in vLLM's API and sampling parameters; knows nothing of HTTP or of engines, and imports no vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mogu.errors import LockedError
from mogu.serving.request_settings import FIELD

CHAT = "/v1/chat/completions"
POST_PATHS = frozenset({CHAT, "/tokenize", "/detokenize", "/ping"})
"""Where a locked server takes requests: the one endpoint that generates, and some that generate nothing."""

READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""What only asks how the server is; with these methods vLLM generates nothing."""

_BEGINS = "it can begin the answer, and routing is void behind an opening that the request wrote"
_FORCES = "it decides which tokens the answer may have, and can force its opening or ban a refusal"
_PROMPT = "it changes how the prompt is written, and the model is served with the prompt it was trained with"
_GOES_ON = "it makes the answer go on where the model ends it"
_ROUTING = "it can turn the routing off, or take part in sampling"

FREE_FIELDS = frozenset(
    {
        "messages",
        "model",
        "frequency_penalty",
        "logprobs",
        "top_logprobs",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "presence_penalty",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "tools",
        "include_reasoning",
        "parallel_tool_calls",
        "user",
        "top_k",
        "min_p",
        "watermarking",
        "length_penalty",
        "stop_token_ids",
        "include_stop_str_in_output",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "truncation_side",
        "prompt_logprobs",
        "logprob_token_ids",
        "echo",
        "documents",
        "priority",
        "request_id",
        "session_id",
        "return_tokens_as_token_ids",
        "return_token_ids",
        "routed_experts_prompt_start",
        "return_token_offsets",
        "return_prompt_text",
        "mm_payload",
        "return_mm_kwargs",
        "cache_salt",
        "repetition_detection",
        "stream_interval",
    }
)
"""Fields of vLLM's chat requests that may have any value; messages have a check of their own."""

IGNORED_FIELDS = frozenset({"metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
"""Fields that clients of OpenAI's API send and vLLM ignores."""

GUARDED_FIELDS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "continue_final_message": ((None, False), _BEGINS),
    "add_generation_prompt": ((None, True), _BEGINS),
    "kv_transfer_params": ((None, {}), _BEGINS),  # these may carry the token ids of a prompt
    "ec_transfer_params": ((None, {}), _BEGINS),
    "truncate_prompt_tokens": ((None,), "it can cut off the end of the prompt, so that the answer begins inside a message"),
    "use_beam_search": ((None, False), "every step of a beam search is a request of its own whose prompt begins the answer"),
    "structured_outputs": ((None,), _FORCES),
    "response_format": ((None, {"type": "text"}), _FORCES),
    "tool_choice": ((None, "none", "auto"), _FORCES),
    "logit_bias": ((None, {}), _FORCES),
    "allowed_token_ids": ((None, []), _FORCES),
    "bad_words": ((None, []), _FORCES),
    "thinking_token_budget": ((None, -1), _FORCES),
    "repetition_penalty": ((None, 1), "it acts on the words of the prompt, so that a prompt could ban the words of a refusal"),
    "min_tokens": ((None, 0), _GOES_ON),  # and bans the request's own stop_token_ids until then
    "ignore_eos": ((None, False), _GOES_ON),
    "chat_template": ((None,), _PROMPT),
    "chat_template_kwargs": ((None, {}), _PROMPT),
    "reasoning_effort": ((None,), _PROMPT),
    "add_special_tokens": ((None, False), _PROMPT),
    "media_io_kwargs": ((None, {}), _PROMPT),
    "mm_processor_kwargs": ((None, {}), _PROMPT),
    "vllm_xargs": ((None, {}), _ROUTING),
    FIELD: ((), _ROUTING),
}
"""Fields of chat requests that may only have the values named here, and why."""

ROLES = ("system", "developer", "user", "assistant", "tool")
ASKING_ROLES = ("user", "tool")
"""Whose message may be the last: behind it the chat template begins a new answer."""

MESSAGE_KEYS = frozenset(
    {
        "role",
        "content",
        "name",
        "tool_call_id",
        "tool_calls",
        "function_call",
        "refusal",
        "annotations",
        "audio",
        "reasoning",
        "reasoning_content",
    }
)

FREE_PARAMETERS = frozenset(
    {
        "n",
        "presence_penalty",
        "frequency_penalty",
        "temperature",
        "watermarking",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "stop",
        "stop_token_ids",
        "max_tokens",
        "logprobs",
        "prompt_logprobs",
        "prompt_logprob_token_ids",
        "prompt_logprob_start",
        "logprob_token_ids",
        "flat_logprobs",
        "detokenize",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "include_stop_str_in_output",
        "output_kind",
        "stream_interval",
        "skip_clone",
        "output_text_buffer_length",
        "_eos_token_id",
        "_all_stop_token_ids",
        "_watermarking_skipped",
        "skip_reading_prefix_cache",
        "repetition_detection",
        "routed_experts_prompt_start",
        "repetition_penalty",
    }
)
"""Fields of vLLM's sampling parameters that may have any value. The base model's own generation config may set a repetition
penalty, which cannot be told from a client's here; a client's is refused as a field of its request."""

GUARDED_PARAMETERS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "structured_outputs": ((None,), _FORCES),
    "logit_bias": ((None, {}), _FORCES),
    "allowed_token_ids": ((None, []), _FORCES),
    "bad_words": ((None, []), _FORCES),
    "_bad_words_token_ids": ((None, []), _FORCES),
    "trace_decode_token_ids": ((None, []), _FORCES),
    "thinking_token_budget": ((None,), _FORCES),
    "min_tokens": ((0,), _GOES_ON),
    "ignore_eos": ((False,), _GOES_ON),
    "extra_args": ((None, {}), _ROUTING),
}
"""Fields of sampling parameters that may only have the values named here, and why."""

_UNKNOWN = "a locked server does not know what it does to the answer"


def check_path(kind: str, method: str, path: str) -> None:
    """Refuse a connection to an endpoint that a locked server does not serve.

    Args:
        kind: ``"http"`` or ``"websocket"``.
        method: of the HTTP request.
        path: without the prefix under which the server is mounted.

    Raises:
        LockedError: the endpoint is not one of those that are known to leave the answer to the model.
    """
    if kind == "http" and (method in READING_METHODS or (method == "POST" and path in POST_PATHS)):
        return
    raise LockedError(
        f"This server is locked: it does not answer at {path!r:.200}, where requests could begin or force the answer",
        expected=f"chat requests to {CHAT}",
        action="send the conversation there",
    )


def check_chat(request: object) -> None:
    """Refuse a chat request that begins or forces its answer.

    Args:
        request: its body, read from JSON.

    Raises:
        LockedError: it is not an object, or sets something that a locked server does not leave to clients.
    """
    if not isinstance(request, dict):
        raise LockedError(
            "This server is locked, and the request's body is not a JSON object",
            expected='an object with "model" and "messages"',
            action="correct the body",
        )
    for field, value in request.items():
        if field not in FREE_FIELDS and field not in IGNORED_FIELDS:
            _check_value(field, value, GUARDED_FIELDS)
    _check_messages(request.get("messages"))


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise _refused("messages", "it is not a list of messages", "list messages, the last of them of the role user or tool")
    for message in messages:
        for key in message.keys() - MESSAGE_KEYS:
            raise _refused(f"messages.{key}", _UNKNOWN, "leave it out")
        if message.get("role") not in ROLES:
            raise _refused("messages.role", f"{message.get('role')!r:.80} is none of {', '.join(ROLES)}", "correct the role")
    if messages[-1]["role"] not in ASKING_ROLES:
        raise _refused(
            "messages", f"the last one is of the role {messages[-1]['role']!r}: {_BEGINS}", "end with a message of the role user or tool"
        )


def check_parameters(parameters: Any) -> None:
    """Refuse sampling parameters that force the answer, wherever the request came from.

    Args:
        parameters: vLLM's ``SamplingParams``.

    Raises:
        LockedError: one of them is set to something that a locked server does not leave to clients.
    """
    for name in parameters.__struct_fields__:
        if name not in FREE_PARAMETERS:
            _check_value(name, getattr(parameters, name), GUARDED_PARAMETERS)


def _check_value(name: str, value: object, guarded: Mapping[str, tuple[tuple[Any, ...], str]]) -> None:
    accepted, why = guarded.get(name, ((), _UNKNOWN))
    if not any(value == one for one in accepted):
        action = f"leave it out, or set it to {' or '.join(repr(one) for one in accepted if one is not None)}"
        raise _refused(name, why, action if any(one is not None for one in accepted) else "leave it out")


def _refused(name: str, why: str, action: str) -> LockedError:
    return LockedError(
        f"This server is locked and does not accept {name!r:.80} as it is in the request: {why}",
        expected="a conversation whose answer is left to the model",
        action=action,
        parameter=name,
    )
