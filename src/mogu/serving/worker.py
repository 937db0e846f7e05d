"""What a worker does for routed requests in each step: which tokens are routed, at what dial, and what their scores are.

Knows vLLM's batch and this package's buffers; knows nothing of how a layer computes or of the API.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights
from vllm.lora.utils import parse_fine_tuned_lora_name

from mogu.errors import ConfigError, ModelFileError
from mogu.serving.layer import RoutedRowParallelLinear, step_buffers
from mogu.serving.packed_adapter import read_served_adapter
from mogu.serving.request_settings import FIELD, RoutedOpening


def load_routed_adapter(folder: Path, adapter_id: int, manager: Any) -> LoRAModel:
    """A saved model as vLLM's own kind of adapter, for the slots of :class:`RoutedRowParallelLinear`.

    Args:
        folder: the saved model's.
        adapter_id: number that vLLM gave it.
        manager: vLLM's adapter manager, which knows the layers of the base model.

    Raises:
        MoguError: the folder cannot be used, or does not fit the base model or the server's options.
    """
    adapter = read_served_adapter(folder)
    most = manager.lora_config.max_lora_rank
    if adapter.rank > most:
        raise ConfigError(
            f"The model {folder} needs a LoRA rank of {adapter.rank}, and the server allows {most}",
            expected=f"--max-lora-rank of at least {adapter.rank} (2r + 2)",
            action="start the server with `mogu serve`, or with that option",
        )
    mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
    mapper = mapper.get_rename_mapper() if mapper is not None else None

    def name_in_vllm(saved_name: str) -> str:
        return str(parse_fine_tuned_lora_name(f"base_model.model.{saved_name}.lora_A.weight", mapper)[0])

    loras = {}
    for saved_name, layer in adapter.layers.items():
        name = name_in_vllm(saved_name)
        _check_layer(folder, name, layer, manager.modules.get(name))
        # A list is how vLLM hands the parts of one layer to its set_lora; the scaling is in `expand` already.
        loras[name] = LoRALayerWeights(name, adapter.rank, adapter.rank, [layer.shrink], [layer.expand, layer.biases], scaling=1)
    for saved_name, (lora_a, lora_b) in adapter.backbone.items():
        name = name_in_vllm(saved_name)
        _check_backbone(folder, name, manager)
        loras[name] = LoRALayerWeights(name, len(lora_a), len(lora_a), lora_a, lora_b, scaling=1)
    return LoRAModel(adapter_id, adapter.rank, loras)


def _check_backbone(folder: Path, name: str, manager: Any) -> None:
    # vLLM keeps q, k and v, or gate and up, as one module; it packs an adapter's parts itself, and drops in silence what it cannot place.
    packed = {part for parts in manager.packed_modules.values() for part in parts}
    if name not in manager.modules and name not in packed:
        raise ModelFileError(
            f"The model {folder} adapts {name}, which is no LoRA layer in this server",
            expected="the base model it was trained on, served with LoRA on all layers that the model adapts",
            action="serve it on its own base model with `mogu serve`, or leave out --lora-target-modules",
        )


def _check_layer(folder: Path, name: str, layer: Any, module: Any) -> None:
    if not isinstance(module, RoutedRowParallelLinear):
        raise ModelFileError(
            f"The model {folder} routes {name}, which is {type(module).__name__ if module is not None else 'no LoRA layer'} in this server",
            expected="the base model it was trained on, served with LoRA on its attention output projections, not fully sharded",
            action="serve it on its own base model, and leave out --fully-sharded-loras and --lora-target-modules",
        )
    width, out = module.input_size * module.tp_size, module.output_size
    if layer.shrink.shape[1] != width or layer.expand.shape[0] != out:
        raise ModelFileError(
            f"The model {folder} has {layer.shrink.shape[1]} → {layer.expand.shape[0]} at {name}, and the base model {width} → {out}",
            expected="the base model it was trained on",
            action="serve it on its own base model",
        )


def opening_of(request: Any) -> RoutedOpening | None:
    """The settings of a request that has an adapter and is routed; they were completed and checked when it came in."""
    parameters = request.sampling_params if request.lora_request else None
    settings = ((parameters and parameters.extra_args) or {}).get(FIELD)
    return RoutedOpening.model_construct(**settings) if isinstance(settings, dict) else None


@dataclass
class StepPlan:
    """Which adapter and dial each token of a step has, and where prompts end.

    Args:
        token_adapters: vLLM's adapter ids, 0 for the base model, ``[tokens]``.
        dials: ``δ``, ``[tokens]``.
        adapters_in_use: of these tokens.
        prompt_ends: for every routed request whose prompt is read to its end in this step, the row of its last token.
    """

    token_adapters: np.ndarray
    dials: np.ndarray
    adapters_in_use: set[int]
    prompt_ends: dict[str, int]


def plan_step(batch: Any, requests: Any, scheduled: np.ndarray) -> StepPlan:
    """Decide by position which tokens of the batch are routed: right also after preemption and in chunks.

    Args:
        batch: vLLM's input batch.
        requests: vLLM's state of each request, by its id.
        scheduled: how many tokens each row of the batch has in this step.
    """
    counts = scheduled[: batch.num_reqs]
    adapters, dials = np.zeros(counts.sum(), dtype=np.int64), np.zeros(counts.sum(), dtype=np.float32)
    in_use: set[int] = set()
    prompt_ends: dict[str, int] = {}
    start = 0
    for row, count in enumerate(counts):
        adapter = int(batch.request_lora_mapping[row])
        if adapter:
            request = requests[batch.req_ids[row]]
            opening, routed = opening_of(request), int(count)
            if opening is not None:
                computed, prompt = int(batch.num_computed_tokens_cpu[row]), int(batch.num_prompt_tokens[row])
                routed = opening.routes(computed, routed, prompt, len(request.output_token_ids))
                dials[start : start + routed] = opening.dial
                if 0 <= prompt - 1 - computed < routed:
                    prompt_ends[request.req_id] = start + prompt - 1 - computed
            if routed:
                adapters[start : start + routed] = adapter
                in_use.add(adapter)
        start += int(count)
    return StepPlan(adapters, dials, in_use, prompt_ends)


def set_active_loras(runner: Any, batch: Any, scheduled: np.ndarray, sampled: np.ndarray | None, mapping_type: Any) -> None:
    """In place of vLLM's method of this name: adapters by token, not by request."""
    plan = plan_step(batch, runner.requests, scheduled)
    per_request = batch.request_lora_mapping[: batch.num_reqs]
    per_request = np.where(np.isin(per_request, list(plan.adapters_in_use)), per_request, 0)
    per_sample = per_request if sampled is None else per_request.repeat(sampled)
    active = {batch.lora_id_to_lora_request[adapter] for adapter in plan.adapters_in_use}
    runner._set_active_loras(tuple(per_sample), tuple(plan.token_adapters), active, mapping_type)

    step = step_buffers(_punica_wrapper(runner))
    tokens = len(plan.dials)
    step.dials[:tokens].copy_(torch.from_numpy(plan.dials), non_blocking=True)
    step.shares.zero_()
    step.layers.zero_()
    runner.mogu_prompt_ends = plan.prompt_ends


def attach_scores(runner: Any, output: Any) -> None:
    """Put the scores of prompts that were read to their end into a step's output, as ``mogu_scores`` by request id.

    The score is the unwill share ``α / (α + β)`` at the last prompt token, averaged over the routed layers.
    """
    ends: dict[str, int] = runner.__dict__.pop("mogu_prompt_ends", {})
    if not ends:
        return
    step = step_buffers(_punica_wrapper(runner))
    rows = torch.tensor(list(ends.values()), device=step.shares.device)
    scores = (step.shares[rows] / step.layers[rows]).tolist()
    # On a GPU vLLM wraps the output, to copy tokens while the next step runs.
    getattr(output, "_model_runner_output", output).mogu_scores = dict(zip(ends, scores, strict=True))


def _punica_wrapper(runner: Any) -> Any:
    return next(iter(runner.lora_manager._adapter_manager.punica_wrapper_mapping.values()))  # the language model's comes first
