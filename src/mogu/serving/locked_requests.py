"""What a locked server accepts: endpoints, request fields and sampling parameters that leave the reply to the model.

Routing protects the first tokens of a reply. If a client writes or forces these tokens, nothing is left to route, so a locked
server accepts only what is known to do neither. Acceptance is decided by allow lists: whatever is not on them is refused.

Knows the names in vLLM's API and sampling parameters; knows nothing of HTTP or engines, and does not import vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mogu.errors import LockedError
from mogu.serving.request_settings import FIELD

CHAT = "/v1/chat/completions"
POST_PATHS = frozenset({CHAT, "/tokenize", "/detokenize", "/ping"})
"""Endpoints of a locked server: the only one that generates, and some that do not generate."""

READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that only read the state of the server; vLLM generates nothing in response to them."""

_BEGINS = "it can begin the reply, and routing has no effect after an opening that the request wrote"
_FORCES = "it restricts the tokens of the reply, which can force its opening or ban a refusal"
_PROMPT = "it changes the prompt, but the model is served with the prompt it was trained with"
_GOES_ON = "it continues the reply after the model has ended it"
_ROUTING = "it can turn routing off or change the sampling"

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
        "return_weight_versions",
        FIELD,  # looked at where it enters the engine, which knows the model
    }
)
"""Fields of vLLM's chat requests that may have any value; messages are checked separately."""

LATER_FIELDS = frozenset({"return_weight_versions"})
"""Those that vLLM has from 0.33 on."""

IGNORED_FIELDS = frozenset({"metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
"""Fields that clients of OpenAI's API send and that vLLM ignores."""

GUARDED_FIELDS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "continue_final_message": ((None, False), _BEGINS),
    "add_generation_prompt": ((None, True), _BEGINS),
    "kv_transfer_params": ((None, {}), _BEGINS),  # may contain the token ids of a prompt
    "ec_transfer_params": ((None, {}), _BEGINS),
    "truncate_prompt_tokens": ((None,), "it can cut off the end of the prompt, so that the reply begins inside a message"),
    "use_beam_search": ((None, False), "each step of a beam search is a request whose prompt begins the reply"),
    "structured_outputs": ((None,), _FORCES),
    "response_format": ((None, {"type": "text"}), _FORCES),
    "tool_choice": ((None, "none", "auto"), _FORCES),
    "logit_bias": ((None, {}), _FORCES),
    "allowed_token_ids": ((None, []), _FORCES),
    "bad_words": ((None, []), _FORCES),
    "thinking_token_budget": ((None, -1), _FORCES),
    "repetition_penalty": ((None, 1), "it applies to the words of the prompt, so that a prompt could ban the words of a refusal"),
    "min_tokens": ((None, 0), _GOES_ON),  # also bans the request's own stop_token_ids until then
    "ignore_eos": ((None, False), _GOES_ON),
    "chat_template": ((None,), _PROMPT),
    "chat_template_kwargs": ((None, {}), _PROMPT),
    "reasoning_effort": ((None,), _PROMPT),
    "add_special_tokens": ((None, False), _PROMPT),
    "media_io_kwargs": ((None, {}), _PROMPT),
    "mm_processor_kwargs": ((None, {}), _PROMPT),
    "vllm_xargs": ((None, {}), _ROUTING),
}
"""Fields of chat requests that are restricted to the values given here, with the reason."""

_WRITTEN = ("messages", "tools", "documents")
"""Fields whose texts a chat template writes into the prompt."""

ROLES = ("system", "developer", "user", "assistant", "tool")
ASKING_ROLES = ("user", "tool")
"""Roles of the last message, after which the chat template begins a new reply."""

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
"""Fields of vLLM's sampling parameters that may have any value. A repetition penalty may come from the base model's own
generation config; that of a client is refused as a field of its request."""

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
"""Fields of sampling parameters that are restricted to the values given here, with the reason."""

_UNKNOWN = "its effect on the reply is not known to a locked server"


def check_path(kind: str, method: str, path: str) -> None:
    """Refuse endpoints that a locked server does not serve.

    Args:
        kind: ``"http"`` or ``"websocket"``.
        method: HTTP method of the request.
        path: path of the request, without the prefix under which the server is mounted.

    Raises:
        LockedError: the endpoint is not known to leave the reply to the model.
    """
    if kind == "http" and (method in READING_METHODS or (method == "POST" and path in POST_PATHS)):
        return
    raise LockedError(
        f"This server is locked: it does not serve {path!r:.200}, where requests could begin or force the reply",
        expected=f"chat requests to {CHAT}",
        action="send the conversation there",
    )


def check_chat(request: object, special_tokens: frozenset[str] = frozenset()) -> None:
    """Refuse chat requests that begin or force the reply.

    Args:
        request: the body of the request, parsed from JSON.
        special_tokens: texts that the tokenizer reads as tokens of its own, such as ``<|im_end|>``: a message that contains one could
            end its own turn and begin the reply.

    Raises:
        LockedError: the body is not an object, or sets something that a locked server does not leave to clients.
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
    for field in _WRITTEN:
        for text in _texts(request.get(field)):
            for token in special_tokens:
                if token in text:
                    raise _refused(
                        field,
                        f"a text has {token!r:.40}, which the model reads as a mark of the conversation, so that it can begin the reply",
                        "write it differently, such as with a space in it",
                    )


def _texts(value: object) -> Iterator[str]:
    """All texts in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, of_key in value.items():
            yield key
            yield from _texts(of_key)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise _refused("messages", "it is not a list of messages", "give a list of messages, the last one with the role user or tool")
    for message in messages:
        for key in message.keys() - MESSAGE_KEYS:
            raise _refused(f"messages.{key}", _UNKNOWN, "leave it out")
        if message.get("role") not in ROLES:
            raise _refused("messages.role", f"{message.get('role')!r:.80} is none of {', '.join(ROLES)}", "correct the role")
    if messages[-1]["role"] not in ASKING_ROLES:
        raise _refused(
            "messages", f"the last one has the role {messages[-1]['role']!r}: {_BEGINS}", "end with a message of the role user or tool"
        )


def check_parameters(parameters: Any) -> None:
    """Refuse sampling parameters that force the reply, no matter where the request came from.

    Args:
        parameters: vLLM's ``SamplingParams``; the settings of ours among them are somebody else's to check.

    Raises:
        LockedError: a parameter has a value that a locked server does not leave to clients.
    """
    for name in parameters.__struct_fields__:
        if name not in FREE_PARAMETERS:
            value = getattr(parameters, name)
            if name == "extra_args":
                value = {key: argument for key, argument in (value or {}).items() if key != FIELD}
            _check_value(name, value, GUARDED_PARAMETERS)


def _check_value(name: str, value: object, guarded: Mapping[str, tuple[tuple[Any, ...], str]]) -> None:
    accepted, reason = guarded.get(name, ((), _UNKNOWN))
    if value not in accepted:
        values = " or ".join(repr(accepted_value) for accepted_value in accepted if accepted_value is not None)
        raise _refused(name, reason, f"leave it out, or set it to {values}" if values else "leave it out")


def _refused(name: str, reason: str, action: str) -> LockedError:
    return LockedError(
        f"This server is locked and does not accept {name!r:.80} as it is in the request: {reason}",
        expected="a conversation whose reply is left to the model",
        action=action,
        parameter=name,
    )
