"""All patches of vLLM, in one place. For each of them a test fails when vLLM changes what the patch relies on.

Knows the names inside vLLM and their replacements; the replacements explain themselves in the modules that define them.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from mogu.serving.packed_adapter import check_servable, is_mogu_folder, served_config


def apply_patches() -> None:
    """Apply all patches; repeated calls in the same process do nothing."""
    import vllm.lora.utils as lora_utils
    from vllm.platforms import current_platform

    from mogu.serving.layer import RoutedRowParallelLinear

    if RoutedRowParallelLinear in lora_utils._all_lora_classes:
        return
    # vLLM replaces a layer by the first class that can replace it.
    lora_utils._all_lora_classes = (RoutedRowParallelLinear, *lora_utils._all_lora_classes)
    if current_platform.is_cpu():
        type(current_platform).get_punica_wrapper = classmethod(lambda _: "mogu.serving.cpu.GroupedPunicaWrapper")
    _patch_adapter_loading()
    _patch_token_mapping()
    _patch_hidden_states()
    _patch_sampling()
    _patch_prefix_cache()
    _patch_scheduler()
    _patch_input_processor()
    _patch_engine()
    _patch_api()


def _patch_adapter_loading() -> None:
    from vllm.lora.utils import get_adapter_absolute_path
    from vllm.lora.worker_manager import WorkerLoRAManager

    from mogu.serving.adapter_loading import check_new, load_mogu_adapter

    original = WorkerLoRAManager._load_adapter

    @functools.wraps(original)
    def load_adapter(self: Any, lora_request: Any) -> Any:
        folder = get_adapter_absolute_path(lora_request.lora_path)
        if is_mogu_folder(folder):
            check_new(lora_request)
            return load_mogu_adapter(Path(folder), lora_request.lora_int_id, self._adapter_manager)
        check_servable(folder)
        return original(self, lora_request)

    WorkerLoRAManager._load_adapter = load_adapter


def _patch_token_mapping() -> None:
    from vllm.lora.layers import LoRAMappingType
    from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin

    from mogu.serving import worker

    @functools.wraps(LoRAModelRunnerMixin.set_active_loras)
    def set_active_loras(
        self: Any, input_batch: Any, num_scheduled_tokens: Any, num_sampled_tokens: Any = None, mapping_type: Any = LoRAMappingType.LANGUAGE
    ) -> None:
        worker.set_active_loras(self, input_batch, num_scheduled_tokens, num_sampled_tokens, mapping_type)

    LoRAModelRunnerMixin.set_active_loras = set_active_loras


def _patch_hidden_states() -> None:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from mogu.serving.gating import hand_out_taps

    original = GPUModelRunner._setup_eagle3_aux_hidden_state_outputs

    @functools.wraps(original)
    def setup_aux_hidden_state_outputs(self: Any) -> None:
        if not hand_out_taps(self):
            original(self)

    GPUModelRunner._setup_eagle3_aux_hidden_state_outputs = setup_aux_hidden_state_outputs


def _patch_sampling() -> None:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from mogu.serving.gating import hear
    from mogu.serving.worker import attach_scores

    original = GPUModelRunner.sample_tokens

    @functools.wraps(original)
    def sample_tokens(self: Any, grammar_output: Any) -> Any:
        hear(self, self.execute_model_state)
        output = original(self, grammar_output)
        attach_scores(self, output)
        return output

    GPUModelRunner.sample_tokens = sample_tokens


def _patch_prefix_cache() -> None:
    import vllm.v1.core.kv_cache_utils as kv_cache_utils

    from mogu.serving.cache_generations import GENERATIONS
    from mogu.serving.worker import decided, settings_of

    original = kv_cache_utils.generate_block_hash_extra_keys

    @functools.wraps(original)
    def generate_block_hash_extra_keys(request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int) -> Any:
        keys, next_mm_idx = original(request, start_token_idx, end_token_idx, start_mm_idx)
        settings = settings_of(request)
        keys = (*(keys or ()), *GENERATIONS.keys())
        if settings is not None and settings.gated and decided(request) not in ("refuse", "careful"):
            keys = tuple(key for key in keys if key[0] != "lora")  # its blocks are those of the base model
        elif settings is not None:
            # A model that is loaded anew, under its name and from its folder, has another id.
            adapter = ("mogu_adapter", str(request.lora_request.lora_int_id))
            keys = (*keys, adapter, settings.cache_key(request.num_prompt_tokens, end_token_idx))
        return keys or None, next_mm_idx

    kv_cache_utils.generate_block_hash_extra_keys = generate_block_hash_extra_keys


def _patch_scheduler() -> None:
    from vllm.config.scheduler import SchedulerConfig

    from mogu.serving.scheduling import add_routing

    original = SchedulerConfig.get_scheduler_cls

    @functools.wraps(original)
    def get_scheduler_cls(self: Any) -> Any:
        return add_routing(original(self))

    SchedulerConfig.get_scheduler_cls = get_scheduler_cls


def _patch_input_processor() -> None:
    from vllm.v1.engine.input_processor import InputProcessor

    from mogu.serving.validation import validate_request

    original = InputProcessor.process_inputs

    @functools.wraps(original)
    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        request = original(self, request_id, prompt, params, *args, **kwargs)
        validate_request(request, self.vllm_config)
        return request

    InputProcessor.process_inputs = process_inputs


def _patch_engine() -> None:
    from vllm.lora.utils import get_adapter_absolute_path
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.core import EngineCore

    from mogu.serving.cache_generations import GENERATIONS
    from mogu.serving.validation import check_admitted

    add_adapter = EngineCore.add_lora

    @functools.wraps(add_adapter)
    def add_lora(self: Any, lora_request: Any) -> Any:
        added = add_adapter(self, lora_request)
        folder = Path(get_adapter_absolute_path(lora_request.lora_path))
        if is_mogu_folder(folder) and served_config(folder).gate is not None:
            GENERATIONS.begin()
        return added

    EngineCore.add_lora = add_lora

    original = AsyncLLM.add_request

    @functools.wraps(original)
    async def add_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        check_admitted()
        return await original(self, *args, **kwargs)

    AsyncLLM.add_request = add_request


def _patch_api() -> None:
    import vllm.entrypoints.launchers.app as app_module
    from vllm.v1.engine.async_llm import AsyncLLM

    from mogu.serving.api import MoguMiddleware
    from mogu.serving.scores import record_scores

    original = app_module.init_entrypoints_middleware

    @functools.wraps(original)
    def init_entrypoints_middleware(args: Any, app: Any, supported_tasks: Any) -> None:
        app.add_middleware(MoguMiddleware)  # the first one added is the innermost, so API keys are checked before it
        original(args, app, supported_tasks)

    app_module.init_entrypoints_middleware = init_entrypoints_middleware
    AsyncLLM.generate = record_scores(AsyncLLM.generate)
