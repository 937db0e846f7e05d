"""Validation of requests as they enter vLLM's engine, from the API or from Python, and completion of their settings.

Knows vLLM's requests; knows nothing of HTTP or of the layers.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.lora.utils import get_adapter_absolute_path

from mogu.errors import ConfigError, LockedError, MoguError
from mogu.modeling.config import MoguConfig
from mogu.serving.access import ADMITTED, BASE, Access, access
from mogu.serving.gating import served_taps
from mogu.serving.locked_requests import CHAT, check_parameters
from mogu.serving.packed_adapter import is_mogu_folder, served_config
from mogu.serving.request_settings import FIELD, RequestSettings, parse_overrides


def validate_request(request: Any, vllm_config: Any) -> None:
    """Check a request and complete its settings: the saved model's, with the request's overrides.

    Args:
        request: a request to vLLM's engine, with its overrides in ``sampling_params.extra_args["mogu"]``; the complete settings
            replace them there.
        vllm_config: the configuration of the engine.

    Raises:
        VLLMValidationError: a value is wrong, the request's model is not a MoGU model, the server is locked and the request begins
            or forces the reply, or the engine runs in a mode without routing. The API responds with HTTP 400.
    """
    parameters = request.sampling_params
    if parameters is None:
        return
    extra = parameters.extra_args or {}
    overrides = extra.get(FIELD)
    config = _config_of(request.lora_request)
    _check_lock(request, config, overrides)
    if config is None:
        if overrides is not None:
            raise VLLMValidationError(
                f"The request has a field {FIELD!r}, but its model is not a MoGU model. Name a MoGU model, or leave the field out.",
                parameter=FIELD,
            )
        return
    try:
        settings = RequestSettings.with_overrides(config, overrides)
    except MoguError as error:
        raise VLLMValidationError(str(error), parameter=FIELD) from error
    _check_engine(vllm_config, settings)
    if settings.gated:
        _check_gated(request, vllm_config)
    parameters.extra_args = {**extra, FIELD: settings.model_dump()}


def _check_engine(vllm_config: Any, settings: RequestSettings) -> None:
    if vllm_config.use_v2_model_runner:
        raise VLLMValidationError("MoGU models need vLLM's first model runner. Start the server with VLLM_USE_V2_MODEL_RUNNER=0.")
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        raise VLLMValidationError(
            "MoGU models do not support pipeline parallelism, since a score needs all layers. Use tensor parallelism."
        )
    if settings.handoff == "recompute" and vllm_config.speculative_config is not None:
        raise VLLMValidationError(
            "handoff 'recompute' cannot be combined with speculative decoding, which generates several tokens per pass. Use 'continue'.",
            parameter=FIELD,
        )


def _check_gated(request: Any, vllm_config: Any) -> None:
    if not served_taps(vllm_config):
        raise VLLMValidationError("This server reads no layers for a gate. Start it with `mogu serve` and the gated model by name.")
    if request.prompt_embeds is not None:
        raise VLLMValidationError(
            "A gate reads token ids, in which it finds the user's turns. Send text or tokens.", parameter="prompt_embeds"
        )
    if request.sampling_params.prompt_logprobs is not None:
        raise VLLMValidationError(
            "A gated model gives no prompt_logprobs: the base model reads a prompt before the gate speaks. Ask the base model for them.",
            parameter="prompt_logprobs",
        )


def _check_lock(request: Any, config: MoguConfig | None, overrides: object) -> None:
    granted = _access()
    if not granted.locked:
        return
    if config is None:
        name = BASE if request.lora_request is None else request.lora_request.lora_name
        if name not in granted.also:
            raise VLLMValidationError("This server is locked: only its MoGU models reply.", parameter="model")
        return
    if request.prompt_embeds is not None:
        raise VLLMValidationError(
            "This server is locked: prompts given as embeddings are not accepted, since they can begin the reply.",
            parameter="prompt_embeds",
        )
    try:
        granted.check_settings(parse_overrides(overrides), config)
        check_parameters(request.sampling_params)
    except ConfigError as error:
        raise VLLMValidationError(str(error), parameter=FIELD) from error
    except LockedError as error:
        raise VLLMValidationError(str(error), parameter=error.parameter) from error


def check_admitted() -> None:
    """Refuse a request to the engine of a locked server that did not pass an endpoint where requests are checked.

    Whether a prompt begins the reply can be checked while it is a conversation, but not once it is tokens.

    Raises:
        VLLMValidationError: the request arrived by gRPC, a plugin or another server around vLLM's engine.
    """
    if _access().locked and not ADMITTED.get():
        raise VLLMValidationError(f"This server is locked: its engine only accepts requests from {CHAT} of MoGU's own API.")


def _access() -> Access:
    try:
        return access()
    except MoguError as error:
        raise VLLMValidationError(str(error)) from error


def _config_of(lora_request: Any) -> MoguConfig | None:
    if lora_request is None:
        return None
    folder = _folder(lora_request.lora_path)
    return served_config(folder) if is_mogu_folder(folder) else None


@functools.lru_cache(maxsize=256)
def _folder(path: str) -> Path:
    return Path(get_adapter_absolute_path(path))
