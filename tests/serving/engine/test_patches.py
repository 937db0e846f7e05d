"""vLLM still is what the patches were written for. A failure here names the patch that a new version has broken."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
import vllm.entrypoints.launchers.app as app_module
import vllm.lora.utils as lora_utils
import vllm.v1.core.kv_cache_utils as kv_cache_utils
from vllm.config.scheduler import SchedulerConfig
from vllm.lora.layers import RowParallelLinearWithLoRA
from vllm.lora.model_manager import LoRAModelManager
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import WorkerLoRAManager
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.output_processor import RequestState
from vllm.v1.request import Request
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.gpu_input_batch import InputBatch
from vllm.v1.worker.gpu_model_runner import ExecuteModelState, GPUModelRunner
from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin

from mogu.errors import ConfigError
from mogu.serving.cpu import GroupedPunicaWrapper
from mogu.serving.layer import RoutedRowParallelLinear
from mogu.serving.plugin import check_version, installed_version, register
from mogu.serving.scheduling import RoutedScheduling, add_routing

PACKAGE = Path(inspect.getfile(RoutedRowParallelLinear)).parent


@pytest.fixture(scope="module", autouse=True)
def installed():
    register()
    register()  # vLLM may call it more than once in a process


def parameters(function) -> list[str]:
    return list(inspect.signature(inspect.unwrap(function)).parameters)


def source(of) -> str:
    return inspect.getsource(inspect.unwrap(of))


def test_every_patch_is_applied_once():
    assert lora_utils._all_lora_classes[0] is RoutedRowParallelLinear
    assert lora_utils._all_lora_classes.count(RoutedRowParallelLinear) == 1
    assert "_all_lora_classes" in source(lora_utils.from_layer)
    for replaced in (
        WorkerLoRAManager._load_adapter,
        LoRAModelRunnerMixin.set_active_loras,
        GPUModelRunner.sample_tokens,
        GPUModelRunner._setup_eagle3_aux_hidden_state_outputs,
        kv_cache_utils.generate_block_hash_extra_keys,
        SchedulerConfig.get_scheduler_cls,
        InputProcessor.process_inputs,
        app_module.init_entrypoints_middleware,
        AsyncLLM.generate,
        AsyncLLM.add_request,
        EngineCore.add_lora,
    ):
        assert replaced.__module__.startswith("vllm.")  # it keeps vLLM's name,
        assert replaced.__code__.co_filename.startswith(str(PACKAGE))  # and is ours,
        assert not replaced.__wrapped__.__code__.co_filename.startswith(str(PACKAGE))  # once


def test_vllm_has_the_names_and_arguments_that_the_patches_rely_on():
    assert parameters(WorkerLoRAManager._load_adapter) == ["self", "lora_request"]
    assert parameters(LoRAModelRunnerMixin.set_active_loras) == [
        "self",
        "input_batch",
        "num_scheduled_tokens",
        "num_sampled_tokens",
        "mapping_type",
    ]
    assert parameters(LoRAModelRunnerMixin._set_active_loras) == [
        "self",
        "prompt_lora_mapping",
        "token_lora_mapping",
        "lora_requests",
        "mapping_type",
    ]
    assert parameters(EngineCore.add_lora) == ["self", "lora_request"]
    assert parameters(GPUModelRunner.sample_tokens) == ["self", "grammar_output"]
    assert parameters(kv_cache_utils.generate_block_hash_extra_keys) == ["request", "start_token_idx", "end_token_idx", "start_mm_idx"]
    assert parameters(InputProcessor.process_inputs)[:4] == ["self", "request_id", "prompt", "params"]
    assert parameters(app_module.init_entrypoints_middleware) == ["args", "app", "supported_tasks"]
    assert parameters(Scheduler._preempt_request) == ["self", "request", "timestamp", "drop_stale_output"]
    assert parameters(RowParallelLinearWithLoRA._apply_lora_to_output) == ["self", "x", "output"]
    assert "request_lora_mapping" in source(InputBatch.make_lora_inputs)
    assert "set_active_loras" in source(GPUModelRunner._prepare_inputs)
    assert "init_entrypoints_middleware" in source(app_module.build_app)
    assert "generate_block_hash_extra_keys" in source(kv_cache_utils.get_request_block_hasher)
    assert {"kv_transfer_params", "new_token_ids"} <= set(EngineCoreOutput.__struct_fields__)
    assert isinstance(EngineCoreOutput.finished, property)
    for name in ("_output_token_ids", "_all_token_ids"):  # of which an answer that is taken back loses some
        assert f"self.{name}" in source(Request.__init__), name
    assert "del req_state.output_token_ids[num_output_tokens:]" in source(GPUModelRunner._update_states)  # and the worker with it
    assert parameters(cached_tokenizer_from_config)[0] == "model_config"
    assert RequestOutputKind.FINAL_ONLY.name in source(RequestState.make_request_output)
    assert "next_decode_eligible_step" in source(Scheduler.schedule)
    for name in ("lora_request", "block_hashes", "num_output_placeholders", "num_preemptions", "next_decode_eligible_step", "events"):
        assert f"self.{name}" in source(Request.__init__), name
    assert "self.waiting.prepend_request(request)" in source(Scheduler._preempt_request)
    for name in ("num_in_flight_tokens", "num_stale_output_tokens", "drop_stale_output"):  # what is in flight is dropped with these
        assert f"request.{name}" in source(Scheduler.update_from_output), name
    # A careful responder takes a request over while it is preempted, in the scheduler and in the worker.
    assert "request.lora_request.lora_int_id" in source(InputBatch.add_request)
    assert "cached_req_ids - (scheduled_req_ids - resumed_req_ids)" in source(GPUModelRunner._update_states)
    assert "request.lora_request.lora_int_id not in scheduled_loras" in source(Scheduler.schedule)
    assert LoRARequest("a", 1, "b") != LoRARequest("c", 1, "b")  # they are told apart by name
    for name in ("lora_slots", "packed_modules", "modules"):
        assert name in source(LoRAModelManager), name
    assert '("lora",' in source(
        kv_cache_utils._gen_lora_extra_hash_keys
    )  # by which an undecided request's blocks are told from an adapter's
    assert "aux_hidden_states" in ExecuteModelState._fields
    assert "self.use_aux_hidden_state_outputs" in source(GPUModelRunner.execute_model)
    for runner in (GPUModelRunner, CPUModelRunner):
        assert "self._setup_eagle3_aux_hidden_state_outputs()" in source(runner.load_model)
    assert "PREEMPTED, timestamp" in source(Scheduler._preempt_request)  # the event that a handoff removes


def test_the_scheduler_is_vllm_s_own_add_routing_in_front():
    for scheduler in (Scheduler, AsyncScheduler):
        routed = add_routing(scheduler)
        assert routed.__mro__[1:3] == (RoutedScheduling, scheduler)
        assert add_routing(scheduler) is routed
    configured = SchedulerConfig.default_factory()
    assert issubclass(configured.get_scheduler_cls(), RoutedScheduling)


def test_on_a_cpu_adapters_apply_to_their_own_tokens_only():
    """vLLM's own CPU path, which the plugin replaces, applies the adapter of the last slot to tokens without one."""
    assert current_platform.get_punica_wrapper() == "mogu.serving.cpu.GroupedPunicaWrapper"
    torch.manual_seed(0)
    x, matrices = torch.randn(6, 8), torch.randn(2, 1, 4, 8)
    indices = torch.tensor([1, -1, 0, 0, 1, -1])
    expected = torch.stack(
        [matrices[i, 0].double() @ token.double() if i >= 0 else torch.zeros(4).double() for i, token in zip(indices, x, strict=True)]
    )
    for wrapper_class, is_correct in ((GroupedPunicaWrapper, True), (PunicaWrapperCPU, False)):
        wrapper = wrapper_class(16, 8, "cpu")
        wrapper.indices_len[0] = 6
        wrapper._token_lora_indices[:6] = indices
        wrapper.is_prefill = True
        wrapper.group() if is_correct else wrapper._update_prefill_metadata(indices)
        y = torch.zeros(1, 6, 4)
        wrapper.add_shrink(y, x, (matrices,), 1.0)
        assert torch.allclose(y[0].double(), expected, atol=1e-5) == is_correct


def test_the_supported_versions_are_checked():
    check_version(installed_version())
    for version in ("0.31.2", "0.34.0", "1.0"):
        with pytest.raises(ConfigError, match=version):
            check_version(version)
