"""A worker's part in gating: what the gates hear of every token, kept beside the cache, and what they say of prompts and answers.

A gate weighs each of a prompt's tokens, wherever they were computed: in an earlier chunk, before a preemption, or for another request whose
blocks the prefix cache shares. So the few numbers that it makes of a token lie in a buffer with the slots of the key-value cache, and are
gathered like keys and values are. Hidden states come the way vLLM hands them to drafters (EAGLE-3), out of its compiled graphs as well.

Knows vLLM's runner and caches; knows nothing of schedulers or of the API.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mogu.errors import ConfigError
from mogu.modeling.gated.gate import ENDS, STREAM_READINGS, Places, attended
from mogu.serving.packed_adapter import TAPS, ServedGate


@dataclass
class Heard:
    """A gate in a worker.

    Args:
        gate: the gate.
        weights: by tap, ``[rows, d]``, on the device: the gate's ``2 + 2·heads``, and a stream head's two.
        tokens: what they make of each token in the cache, ``[slots, rows]``; NaN where nothing has been heard.
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


def prompt_logit(runner: Any, request: Any, adapter_id: int, dial: float) -> float:
    """What a gate says of a request whose prompt has been read, ``z + δ``; infinite if it has not heard some of it.

    Args:
        runner: vLLM's model runner.
        request: its state of the request.
        adapter_id: vLLM's id of the adapter that the gate belongs to.
        dial: ``δ``.
    """
    heard = _heard(runner, adapter_id)
    ids = request.prompt_token_ids
    tokens = heard.tokens[_slots(runner, request, 0, len(ids))]
    places = Places.of([heard.gate.marks.spans(ids)], [0], len(ids), tokens.device)
    of_heads = tokens[None, :, ENDS : ENDS + 2 * heard.gate.gate.heads]
    logit = tokens[places.last, 0] + tokens[places.end, 1] + attended(of_heads, places.user).sum(1)
    found = float(logit + heard.gate.gate.bias + dial)
    return found if found == found else math.inf  # NaN: blocks from before the gate was loaded; what nobody has heard is not let through


@dataclass
class Spoken:
    """What a stream head has heard of an answer so far.

    Args:
        fixed: ``κ·z + c``.
        prompt: length of the prompt.
        read: tokens of the answer that were read.
        total: the sum of what the mean is of.
        calm: how many of them stood before the last one at which the answer was harmless, that one included.
        alarming: whether the answer has become malicious.
    """

    fixed: float
    prompt: int
    read: int = 0
    total: float = 0.0
    calm: int = 0
    alarming: bool = False


def listen(runner: Any, adapter_id: int, answers: Mapping[str, tuple[Spoken, int]]) -> dict[str, float]:
    """Take in what the last pass has read of answers; return ``p_t`` of each that has new tokens.

    Args:
        runner: vLLM's model runner.
        adapter_id: vLLM's id of the adapter that the stream head belongs to.
        answers: by request id, what was heard, and how many tokens of the answer have been read.
    """
    heard = _heard(runner, adapter_id)
    new = {name: (spoken, read) for name, (spoken, read) in answers.items() if read > spoken.read}  # after a preemption, old ones are
    if not new or heard.gate.stream is None:
        return {}
    requests = {name: runner.requests[name] for name in new}
    slots = [_slots(runner, requests[name], of.prompt + of.read, of.prompt + read) for name, (of, read) in new.items()]
    # One look at the device for all of them.
    parts = (
        torch.cat([heard.tokens[of_answer, -len(STREAM_READINGS) :] for of_answer in slots])
        .double()
        .cpu()
        .split_with_sizes(list(map(len, slots)))
    )
    found = {}
    for (name, (spoken, read)), part in zip(new.items(), parts, strict=True):
        spoken.total, spoken.read = spoken.total + float(part[:, 1].sum()), read
        logit = spoken.fixed + float(part[-1, 0]) + spoken.total / read
        found[name] = _sigmoid(logit)
    return found


def _sigmoid(logit: float) -> float:
    return float(torch.tensor(logit, dtype=torch.float64).sigmoid())


def _slots(runner: Any, request: Any, start: int, stop: int) -> Tensor:
    """Where a request's tokens lie in the cache."""
    size = runner.kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
    positions = torch.arange(start, stop)
    blocks = torch.tensor(request.block_ids[0])
    slots: Tensor = blocks[positions // size] * size + positions % size
    return slots.to(runner.device)


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
        tokens = torch.full((slots, served.rows), torch.nan, device=runner.device)
        heard[adapter_id] = Heard(served, {tap: vectors.to(runner.device) for tap, vectors in served.weights().items()}, tokens)
    return heard[adapter_id]
