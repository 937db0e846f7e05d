"""The scheduler's part in routing: handoffs that read again, requests that a gate flags, answers taken back, and scores for the API.

Knows vLLM's scheduler; knows nothing of layers or of the API.
"""

from __future__ import annotations

import functools
import sys
import time
from typing import Any

from vllm.sampling_params import RequestOutputKind
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from mogu.modeling.config import Decision
from mogu.modeling.gated.listening import sentence_boundary
from mogu.serving.hold_back import HeldOutputs
from mogu.serving.request_settings import FIELD
from mogu.serving.worker import decided, is_undecided, settings_of, take_decision, was_taken_back


class RoutedScheduling:
    """Mixin for vLLM's schedulers.

    With ``recompute``, a handoff is a preemption after which the request has no adapter: vLLM frees its blocks and reads prompt
    and opening again in one pass, using the prefix cache of requests to the base model. Sampling state, stop strings, grammars
    and streaming are not affected.

    A gated request is one to the base model, blocks and all, until its prompt has been read, and stays one unless its gate flags it. Then
    it is preempted, what was sampled meanwhile is dropped, and it is read again with its adapter, that of ``unwill`` or of the careful
    responder, whose blocks are its own.

    Where a stream head listens, an answer of the base model that becomes malicious goes the same way, without the tokens behind its last
    harmless sentence. Its caller gets tokens late, so that those were not shown.
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

    def _take_back(self: Any, request: Request, harmless: int) -> None:
        """Go on with the adapter from the last whole sentence among an answer's first harmless tokens, or from what was shown."""
        held = _held(request)
        tokenizer = cached_tokenizer_from_config(self.vllm_config.model_config)  # None on a server without one
        safe = sentence_boundary(tokenizer, request.output_token_ids[:harmless]) if tokenizer is not None else 0
        keep = max(safe, held.shown)
        held.take_back(keep)
        del request._output_token_ids[keep:]
        del request._all_token_ids[request.num_prompt_tokens + keep :]
        request.mogu_taken_back = True
        self._take_decision(request, "refuse")

    def _take_decision(self: Any, request: Request, decision: Decision) -> None:
        take_decision(request, decision)
        request.next_decode_eligible_step = 0
        if decision == "base":
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
        decisions: dict[str, Decision] = getattr(model_runner_output, "mogu_decisions", {})
        # Taken now, since the call below removes finished requests.
        requests = {request_id: self.requests.get(request_id) for request_id in scheduler_output.num_scheduled_tokens}
        for request_id, score in scores.items():
            request = requests[request_id]
            if request is None:
                continue
            request.mogu_score, request.mogu_score_is_new = score, True
            settings = settings_of(request)
            if settings is not None and is_undecided(request, settings) and not request.is_finished():
                self._take_decision(request, decisions[request_id])
        for request_id, probability in getattr(model_runner_output, "mogu_listened", {}).items():
            if (request := requests[request_id]) is not None:
                request.mogu_listened = probability
        for request_id, harmless in getattr(model_runner_output, "mogu_alarms", {}).items():
            request = requests[request_id]
            if request is not None and not request.is_finished() and not was_taken_back(request):
                self._take_back(request, harmless)
        results = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        for outputs in results.values():
            outputs.outputs = [late for output in outputs.outputs for late in _with_findings(requests.get(output.request_id), output)]
        return results


def _with_findings(request: Request | None, output: Any) -> list[Any]:
    """What the caller of a request gets now that there is a new output: it, with what was found out, or none yet, or several."""
    score = getattr(request, "mogu_score", None)
    if request is None or score is None:
        return [output]
    settings = settings_of(request)
    listening = settings is not None and settings.listen is not None
    if request.mogu_score_is_new or output.finished or listening:
        request.mogu_score_is_new = False
        found = {"score": score}
        if listening:
            found |= {"listened": getattr(request, "mogu_listened", None), "taken_back": was_taken_back(request)}
        output.kv_transfer_params = (output.kv_transfer_params or {}) | {FIELD: found}
    if not listening:
        return [output]
    held = _held(request)
    return held.after(output) if decided(request) == "base" else [*held.all(), output]


def _held(request: Request) -> HeldOutputs:
    """The outputs of a request that is listened to which its caller has not got yet."""
    held: HeldOutputs | None = getattr(request, "mogu_held", None)
    if held is None:
        settings, parameters = settings_of(request), request.sampling_params
        assert settings is not None
        assert parameters is not None
        # Who gets the whole answer alone need not see parts of it; but stop strings are looked for in what was handed on.
        whole = parameters.output_kind == RequestOutputKind.FINAL_ONLY and not parameters.stop
        held = request.mogu_held = HeldOutputs(None if whole else settings.hold_back)
    return held


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
