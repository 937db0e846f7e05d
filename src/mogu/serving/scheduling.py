"""The scheduler's part in routing: handoffs that recompute the prompt, requests that a gate flags, and scores on their way to the API.

Knows vLLM's scheduler; knows nothing of layers or of the API.
"""

from __future__ import annotations

import functools
import sys
import time
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from mogu.serving.request_settings import FIELD
from mogu.serving.worker import is_undecided, settings_of


class RoutedScheduling:
    """Mixin for vLLM's schedulers.

    With ``recompute``, a handoff is a preemption after which the request has no adapter: vLLM frees its blocks and reads prompt
    and opening again in one pass, using the prefix cache of requests to the base model. Sampling state, stop strings, grammars
    and streaming are not affected.

    A gated request is one to the base model, blocks and all, until its prompt has been read, and stays one unless its gate flags it. Then
    it is preempted, what was sampled meanwhile is dropped, and it is read again with its adapter, whose blocks are its own.
    """

    def schedule(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Schedule a step after performing the handoffs that are due."""
        for request in [request for request in self.running if _is_handoff_due(request)]:
            self._hand_over(request)
        return super().schedule(*args, **kwargs)  # type: ignore[misc]

    def _hand_over(self: Any, request: Request) -> None:
        self._read_again(request)
        request.lora_request = None
        _hash_again(request)

    def _read_again(self: Any, request: Request, *, drop_stale_output: bool = False) -> None:
        self.running.remove(request)
        self._preempt_request(request, time.monotonic(), drop_stale_output)
        request.num_preemptions -= 1  # this does not count as a preemption in vLLM's metrics
        if self.log_stats:
            request.events.pop()
        request.next_decode_eligible_step = 0

    def _take_decision(self: Any, request: Request, found: bool) -> None:
        request.mogu_flagged = found
        request.next_decode_eligible_step = 0
        if not found:
            return
        if request.status == RequestStatus.RUNNING:
            self._read_again(request, drop_stale_output=True)
        else:  # preempted for want of memory: it waits to be read again already
            request.drop_stale_output = True
        _hash_again(request)

    def _update_after_schedule(self: Any, scheduler_output: Any) -> None:
        super()._update_after_schedule(scheduler_output)  # type: ignore[misc]
        for request_id in scheduler_output.num_scheduled_tokens:
            request = self.requests[request_id]
            settings = settings_of(request)
            # Asynchronous scheduling is a step ahead of the tokens; the step after the opening must wait for them.
            if settings is None:
                continue
            prompt_is_read = request.num_computed_tokens >= request.num_prompt_tokens
            if is_undecided(request, settings) and prompt_is_read:  # nor may a token be decoded before the gate has spoken
                request.next_decode_eligible_step = sys.maxsize
            if settings.hands_over(request.num_output_tokens + request.num_output_placeholders):
                request.next_decode_eligible_step = sys.maxsize

    def update_from_output(self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Process the results of a step, adding the score of each routed prompt to its first and its last output."""
        scores = getattr(model_runner_output, "mogu_scores", {})
        malicious: set[str] = getattr(model_runner_output, "mogu_flagged", set())
        # Taken now, since the call below removes finished requests.
        requests = {request_id: self.requests.get(request_id) for request_id in scheduler_output.num_scheduled_tokens}
        for request_id, score in scores.items():
            request = requests[request_id]
            if request is None:
                continue
            request.mogu_score, request.mogu_score_is_new = score, True
            settings = settings_of(request)
            if settings is not None and is_undecided(request, settings) and not request.is_finished():
                self._take_decision(request, request_id in malicious)
        results = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        for outputs in results.values():
            for output in outputs.outputs:
                request = requests.get(output.request_id)
                score = getattr(request, "mogu_score", None)
                if request is not None and score is not None and (request.mogu_score_is_new or output.finished):
                    request.mogu_score_is_new = False
                    output.kv_transfer_params = (output.kv_transfer_params or {}) | {FIELD: {"score": score}}
        return results


def _hash_again(request: Request) -> None:
    request.block_hashes.clear()
    request.update_block_hashes()


def _is_handoff_due(request: Request) -> bool:
    settings = settings_of(request)
    return settings is not None and not request.num_output_placeholders and settings.hands_over(request.num_output_tokens)


@functools.cache
def add_routing(scheduler: type) -> type:
    """Derive a class from :class:`RoutedScheduling` and one of vLLM's schedulers; other classes are returned unchanged."""
    if not issubclass(scheduler, Scheduler):
        return scheduler
    return type(f"Routed{scheduler.__name__}", (RoutedScheduling, scheduler), {})
