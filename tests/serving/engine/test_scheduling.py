"""Handoffs that recompute the prompt, in vLLM's own schedulers; the asynchronous one is a step ahead of the tokens, as on a GPU."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from mogu.modeling.config import Decision
from mogu.serving.plugin import register
from mogu.serving.scheduling import add_routing
from mogu.serving.worker import settings_of

BLOCK, PROMPT, NEW_TOKENS = 32, 40, 12
M = 5


@pytest.fixture(params=[Scheduler, AsyncScheduler], ids=["synchronous", "asynchronous"])
def scheduler(request, base):
    register()
    init_none_hash(sha256)
    config = EngineArgs(
        model=base, dtype="float32", enable_lora=True, max_lora_rank=32, max_model_len=512, block_size=BLOCK
    ).create_engine_config()
    config.scheduler_config.async_scheduling = request.param is AsyncScheduler
    config.cache_config.num_gpu_blocks = 64
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=16, dtype=torch.float32)
    cache = KVCacheConfig(64, [], [KVCacheGroupSpec(["layer"], spec)], hash_block_size=BLOCK)
    return add_routing(request.param)(config, cache, StructuredOutputManager(config), BLOCK, hash_block_size=BLOCK, log_stats=True)


def add(scheduler, name: str, handoff: str | None, *, gated: bool = False) -> Request:
    """Add a request to the base model, or to a saved one with its way of handing over."""
    settings = {"mogu": {"routed_tokens": "all" if gated else M, "dial": 0.0, "handoff": handoff, "gated": gated}} if handoff else None
    request = Request(
        name,
        list(range(100, 100 + PROMPT)),
        SamplingParams(max_tokens=NEW_TOKENS, extra_args=settings, ignore_eos=True),
        None,
        lora_request=LoRARequest("one", 1, "somewhere") if handoff else None,
        block_hasher=get_request_block_hasher(BLOCK, sha256),
    )
    scheduler.add_request(request)
    return request


def run(scheduler, *, decision: Decision = "base") -> list[dict[str, tuple[int, int, bool]]]:
    """Run all requests; returns, for each step and request, the position of its first token, its tokens, and whether it has its adapter.

    Args:
        scheduler: one of vLLM's, with routing.
        decision: what the worker's gates decide about every prompt.
    """
    steps, pending, tokens, decided = [], deque(), 0, set()
    is_async = isinstance(scheduler, AsyncScheduler)
    while scheduler.has_unfinished_requests() or pending:
        before = {name: request.num_computed_tokens for name, request in scheduler.requests.items()}
        step = scheduler.schedule()
        if step.num_scheduled_tokens:
            starts = before | dict(zip(step.scheduled_cached_reqs.req_ids, step.scheduled_cached_reqs.num_computed_tokens, strict=True))
            starts |= {new.req_id: new.num_computed_tokens for new in step.scheduled_new_reqs}
            steps.append(
                {
                    name: (starts[name], count, scheduler.requests[name].lora_request is not None)
                    for name, count in step.num_scheduled_tokens.items()
                }
            )
            names = list(step.num_scheduled_tokens)
            sampled = []
            gates = {
                name
                for name in names
                if (settings := settings_of(scheduler.requests[name])) is not None
                and settings.gated
                and name not in decided
                and not scheduler.requests[name].is_prefill_chunk
            }
            decided |= gates
            for name in names:
                request = scheduler.requests[name]
                tokens += 1
                sampled.append([] if request.is_prefill_chunk else [tokens])
            output = ModelRunnerOutput(names, {name: index for index, name in enumerate(names)}, sampled_token_ids=sampled)
            output.mogu_scores, output.mogu_decisions = dict.fromkeys(gates, 0.7), dict.fromkeys(gates, decision)
            pending.append((step, output))
        if len(pending) > is_async or (pending and not step.num_scheduled_tokens):
            scheduler.update_from_output(*pending.popleft())
    return steps


def test_after_the_handoff_the_base_model_reads_prompt_and_opening_in_one_pass(scheduler):
    request = add(scheduler, "routed", "recompute")
    steps = [step["routed"] for step in run(scheduler)]
    opening = [(0, PROMPT, True)] + [(PROMPT + token, 1, True) for token in range(M - 1)]
    rest = [(0, PROMPT + M, False)] + [(PROMPT + M + token, 1, False) for token in range(NEW_TOKENS - M - 1)]
    assert steps == opening + rest
    assert request.num_output_tokens == NEW_TOKENS
    assert request.num_preemptions == 0
    assert scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == 63  # all but vLLM's null block


def test_continue_reads_nothing_again(scheduler):
    add(scheduler, "routed", "continue")
    assert [step["routed"] for step in run(scheduler)] == [(0, PROMPT, True)] + [
        (PROMPT + token, 1, True) for token in range(NEW_TOKENS - 1)
    ]


def test_after_the_handoff_base_blocks_are_shared_and_routed_ones_are_not(scheduler):
    add(scheduler, "base", None)
    run(scheduler)
    add(scheduler, "routed", "recompute")
    steps = [step["routed"] for step in run(scheduler)]
    assert steps[0] == (0, PROMPT, True)  # no block of the base request is reused
    assert steps[M] == (BLOCK, PROMPT + M - BLOCK, False)  # the first block of the base request is reused


def test_a_request_that_the_gate_finds_benign_is_read_once_and_shares_the_base_model_s_blocks(scheduler):
    request = add(scheduler, "gated", "continue", gated=True)
    assert [step["gated"][:2] for step in run(scheduler)] == [(0, PROMPT)] + [(PROMPT + token, 1) for token in range(NEW_TOKENS - 1)]
    assert list(request.output_token_ids) == list(range(1, NEW_TOKENS + 1))
    add(scheduler, "base", None)
    assert run(scheduler)[0]["base"] == (BLOCK, PROMPT - BLOCK, False)  # the gated request's first block is reused,
    add(scheduler, "again", "continue", gated=True)
    assert run(scheduler)[0]["again"][:2] == (BLOCK, PROMPT - BLOCK)  # and the base model's by the next gated one


@pytest.mark.parametrize("decision", ["refuse", "careful"])
def test_a_request_that_the_gate_flags_is_read_again_and_what_was_sampled_before_is_dropped(scheduler, decision):
    add(scheduler, "base", None)
    run(scheduler)
    request = add(scheduler, "gated", "continue", gated=True)
    steps = [step["gated"][:2] for step in run(scheduler, decision=decision)]
    assert steps[0] == (BLOCK, PROMPT - BLOCK)  # behind a block of the base model,
    assert steps[1:] == [(0, PROMPT)] + [(PROMPT + token, 1) for token in range(NEW_TOKENS - 1)]  # and then all of it with its adapter
    answer = list(request.output_token_ids)
    assert len(answer) == NEW_TOKENS
    assert answer == list(range(answer[0], answer[0] + NEW_TOKENS))
    assert answer[0] == 2  # the first one was dropped
    assert request.num_preemptions == 0
    add(scheduler, "flagged too", "continue", gated=True)
    steps = [step["flagged too"][:2] for step in run(scheduler, decision=decision)]
    assert steps[:2] == [(BLOCK, PROMPT - BLOCK), (BLOCK, PROMPT - BLOCK)]  # blocks of both kinds are found, each among its own
    add(scheduler, "flagged otherwise", "continue", gated=True)
    other = run(scheduler, decision="careful" if decision == "refuse" else "refuse")
    assert [step["flagged otherwise"][:2] for step in other][:2] == [(BLOCK, PROMPT - BLOCK), (0, PROMPT)]  # no expert uses another's
    assert scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == 63
