"""Completing and checking what a request asks for, as it enters vLLM, whether from the API or from a program.

Knows vLLM's requests; knows nothing of HTTP or of the layers.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.lora.utils import get_adapter_absolute_path

from mogu.errors import LockedError, MoguError
from mogu.modeling.checkpoint import CONFIG_FILE, read_config
from mogu.modeling.config import MoguConfig
from mogu.serving.lock import ADMITTED, is_locked
from mogu.serving.locked_requests import CHAT, check_parameters
from mogu.serving.packed_adapter import is_mogu_folder
from mogu.serving.request_settings import FIELD, RoutedOpening


def complete_settings(request: Any, vllm_config: Any) -> None:
    """Give a routed request all its settings: the saved model's, with what it asks for in their place.

    Args:
        request: a request to vLLM's engine; what it asks for lies in ``sampling_params.extra_args["mogu"]``.
        vllm_config: the engine's.

    Raises:
        VLLMValidationError: a value is wrong, the request's model is not a MoGU model, the server is locked and the request begins
            or forces the answer, or its engine runs in a way that cannot route; the API answers it with HTTP 400.
    """
    parameters = request.sampling_params
    if parameters is None:
        return
    extra = parameters.extra_args or {}
    asked = extra.get(FIELD)
    config = _config_of(request.lora_request)
    _check_lock(request, config, asked)
    if config is None:
        if asked is not None:
            raise VLLMValidationError(
                f"The request has a field {FIELD!r}, and its model is not a MoGU model. Name a MoGU model, or leave the field out.",
                parameter=FIELD,
            )
        return
    try:
        opening = RoutedOpening.of(config, asked)
    except MoguError as error:
        raise VLLMValidationError(str(error), parameter=FIELD) from error
    _check_engine(vllm_config, opening)
    parameters.extra_args = {**extra, FIELD: opening.model_dump()}


def _check_engine(vllm_config: Any, opening: RoutedOpening) -> None:
    if vllm_config.use_v2_model_runner:
        raise VLLMValidationError("MoGU models need vLLM's first model runner. Start the server with VLLM_USE_V2_MODEL_RUNNER=0.")
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        raise VLLMValidationError("MoGU models cannot be spread over pipeline stages: a score needs all layers. Use tensor parallelizm.")
    if opening.handoff == "recompute" and vllm_config.speculative_config is not None:
        raise VLLMValidationError(
            "handoff 'recompute' does not go with speculative decoding, which makes several tokens a pass. Ask for 'continue'.",
            parameter=FIELD,
        )


def _check_lock(request: Any, config: MoguConfig | None, asked: object) -> None:
    if not _locked():
        return
    if config is None:
        raise VLLMValidationError("This server is locked: only its MoGU models answer.", parameter="model")
    if asked is not None:
        raise VLLMValidationError(f"This server is locked: the field {FIELD!r} is not accepted.", parameter=FIELD)
    if request.prompt_embeds is not None:
        raise VLLMValidationError(
            "This server is locked: a prompt of embeddings is not accepted, since it can begin the answer.", parameter="prompt_embeds"
        )
    try:
        check_parameters(request.sampling_params)
    except LockedError as error:
        raise VLLMValidationError(str(error), parameter=error.parameter) from error


def check_admitted() -> None:
    """Refuse a request to a locked server's engine that came in by no endpoint where requests are checked.

    What a prompt says of the answer can be checked where it is a conversation, and no longer where it is tokens.

    Raises:
        VLLMValidationError: it came by gRPC, a plugin or another server around vLLM's engine.
    """
    if _locked() and not ADMITTED.get():
        raise VLLMValidationError(f"This server is locked: its engine takes requests from {CHAT} of MoGU's own API alone.")


def _locked() -> bool:
    try:
        return is_locked()
    except MoguError as error:
        raise VLLMValidationError(str(error)) from error


def _config_of(lora_request: Any) -> MoguConfig | None:
    if lora_request is None:
        return None
    folder = _folder(lora_request.lora_path)
    file = folder / CONFIG_FILE
    return _read(folder, file.stat().st_mtime_ns) if is_mogu_folder(folder) else None


@functools.lru_cache(maxsize=256)
def _folder(path: str) -> Path:
    return Path(get_adapter_absolute_path(path))


@functools.lru_cache(maxsize=256)
def _read(folder: Path, modified: int) -> MoguConfig:
    return read_config(folder)  # anew when `mogu calibrate --write` has turned the dial
