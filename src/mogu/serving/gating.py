"""A worker's part in gating: what the gates hear of every token, kept beside the cache, and what they say of a whole prompt.

A gate weighs each of a prompt's tokens, wherever they were computed: in an earlier chunk, before a preemption, or for another request whose
blocks the prefix cache shares. So the few numbers that it makes of a token lie in a buffer with the slots of the key-value cache, and are
gathered like keys and values are. Hidden states come the way vLLM hands them to drafters (EAGLE-3), out of its compiled graphs as well.

Knows vLLM's runner and caches; knows nothing of schedulers or of the API.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mogu.errors import ConfigError
from mogu.modeling.gated.gate import ENDS, Places, attended
from mogu.serving.packed_adapter import TAPS, ServedGate


@dataclass
class Heard:
    """A gate in a worker.

    Args:
        gate: the gate.
        weights: by tap, ``[2 + 2·heads, d]``, on the device.
        tokens: what the gate makes of each token in the cache, ``[slots, 2 + 2·heads]``; NaN where nothing has been heard.
    """

    gate: ServedGate
    weights: dict[int, Tensor]
    tokens: Tensor


def served_taps(vllm_config: Any) -> list[int]:
    """The decoder layers that the server's gates read, in order; none where there are no gates."""
    return sorted(int(tap) for tap in (vllm_config.additional_config or {}).get(TAPS, []))


def hand_out_taps(runner: Any) -> bool:
    """Let the model hand out the hidden states of the taps, as it does for drafters; tell whether there are any.

    Raises:
        ConfigError: the model cannot, or hands them out to a drafter already.
    """
    taps = served_taps(runner.vllm_config)
    if not taps:
        return False
    from vllm.model_executor.models.interfaces import supports_eagle3

    model = runner.get_model()
    if not supports_eagle3(model):
        raise ConfigError(
            f"vLLM's {type(model).__name__} hands out no hidden states, which a gate reads",
            expected="a model that vLLM lists under EAGLE-3, such as Llama, Mistral, Qwen2 or Qwen3",
            action="serve a model of method v1 or v2 on this base, or use `mogu chat`",
        )
    if runner.speculative_config is not None:
        raise ConfigError(
            "Gated models and speculative decoding both read hidden states",
            expected="a server without --speculative-config",
            action="leave it out, or serve a model of method v1 or v2",
        )
    model.set_aux_hidden_state_layers(tuple(tap + 1 for tap in taps))
    runner.lora_manager._adapter_manager.mogu_taps = taps
    runner.use_aux_hidden_state_outputs = True
    return True


def hear(runner: Any, state: Any) -> None:
    """Take in what every gate makes of the tokens of a step.

    Args:
        runner: vLLM's model runner.
        state: what it has kept of the step for sampling.
    """
    gates = gates_of(runner)
    if not gates or state is None or state.aux_hidden_states is None:
        return
    count = state.scheduler_output.total_num_scheduled_tokens
    slots = runner.input_batch.block_table[0].slot_mapping.gpu[:count].long()
    taps = runner.lora_manager._adapter_manager.mogu_taps
    hidden = {tap: states[:count].float() for tap, states in zip(taps, state.aux_hidden_states, strict=True)}
    for adapter_id in gates:
        heard = _heard(runner, adapter_id)
        heard.tokens[slots] = torch.stack([hidden[tap] @ weights.t() for tap, weights in heard.weights.items()]).sum(0)


def probability(runner: Any, request: Any, adapter_id: int, dial: float) -> float:
    """What a gate says of a request whose prompt has been read; 1 if it has not heard some of it.

    Args:
        runner: vLLM's model runner.
        request: its state of the request.
        adapter_id: vLLM's id of the adapter that the gate belongs to.
        dial: ``δ``, added to the logit.
    """
    heard = _heard(runner, adapter_id)
    ids = request.prompt_token_ids
    size = runner.kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
    positions = torch.arange(len(ids), device=heard.tokens.device)
    blocks = torch.tensor(request.block_ids[0], device=heard.tokens.device)
    tokens = heard.tokens[blocks[positions // size] * size + positions % size]
    places = Places.of([heard.gate.marks.spans(ids)], [0], len(ids), tokens.device)
    logit = tokens[places.last, 0] + tokens[places.end, 1] + attended(tokens[None, :, ENDS:], places.user).sum(1)
    found = float((logit + heard.gate.gate.bias + dial).sigmoid())
    return found if found == found else 1.0  # NaN: blocks from before the gate was loaded; what nobody has heard is not let through


def gates_of(runner: Any) -> dict[int, ServedGate]:
    """The gates of the loaded adapters, by vLLM's adapter id."""
    manager = getattr(runner, "lora_manager", None)
    gates: dict[int, ServedGate] = getattr(getattr(manager, "_adapter_manager", None), "mogu_gates", {})
    return gates


def _heard(runner: Any, adapter_id: int) -> Heard:
    heard: dict[int, Heard] = runner.__dict__.setdefault("mogu_heard", {})
    if adapter_id not in heard:
        served = gates_of(runner)[adapter_id]
        groups = runner.kv_cache_config.kv_cache_groups
        slots = runner.kv_cache_config.num_blocks * groups[0].kv_cache_spec.block_size
        tokens = torch.full((slots, ENDS + 2 * served.gate.heads), torch.nan, device=runner.device)
        heard[adapter_id] = Heard(served, {tap: vectors.to(runner.device) for tap, vectors in served.gate.vectors.items()}, tokens)
    return heard[adapter_id]
