"""A worker's part in routing: decide which tokens of a step have their adapter at which dial, and collect scores.

Knows vLLM's batch and the buffers of a step; knows nothing of the computation inside a layer or of the API.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mogu.modeling.config import Decision
from mogu.modeling.gated.listening import CALM
from mogu.serving.adapter_loading import careful_request
from mogu.serving.gating import Spoken, gates_of, listen, prompt_logit
from mogu.serving.layer import step_buffers
from mogu.serving.request_settings import FIELD, RequestSettings


def settings_of(request: Any) -> RequestSettings | None:
    """Return the settings of a routed request, which were completed and checked when it arrived; ``None`` for other requests."""
    parameters = request.sampling_params if request.lora_request else None
    settings = ((parameters and parameters.extra_args) or {}).get(FIELD)
    if not isinstance(settings, dict):
        return None
    # An answer that was taken back is the adapter's to its end.
    return RequestSettings.model_construct(**settings | ({"routed_tokens": "all"} if was_taken_back(request) else {}))


def decided(request: Any) -> Decision | None:
    """What the gate has decided about a request, in the worker or in the scheduler: ``None`` before it has heard all of the prompt."""
    found: Decision | None = getattr(request, "mogu_decision", None)
    return found


def take_decision(request: Any, decision: Decision) -> None:
    """Note what a gate has decided about a request, in the worker or in the scheduler, and by which adapter it is answered."""
    request.mogu_decision = decision
    if decision == "careful":
        request.lora_request = careful_request(request.lora_request)


def was_taken_back(request: Any) -> bool:
    """Whether an answer of the base model to a request became malicious, in the worker or in the scheduler."""
    return getattr(request, "mogu_taken_back", False)


def listens(request: Any, settings: RequestSettings) -> bool:
    """Whether somebody listens to the answer to a request, in the worker or in the scheduler."""
    return settings.listen is not None and decided(request) == "base"


def is_undecided(request: Any, settings: RequestSettings) -> bool:
    """Whether a gate is still to decide about a request, in the worker or in the scheduler."""
    return settings.gated and settings.routed_tokens != 0 and decided(request) is None


@dataclass
class StepPlan:
    """The adapter and dial of each token of a step, and the positions where prompts end.

    Args:
        token_adapters: vLLM's adapter ids ``[tokens]``, 0 for the base model.
        dials: the dial ``δ`` of each token, ``[tokens]``.
        adapters_in_use: the adapter ids that occur in ``token_adapters``, without 0.
        prompt_ends: by request id, the row of the last prompt token, for each routed request whose prompt ends in this step.
        undecided: by request id, the adapter of each request whose gate is still to decide.
        ending: those of them whose prompt ends in this step.
        listening: by the adapter whose stream head listens, and by request id, how many tokens of the answer have been read after the step.
    """

    token_adapters: np.ndarray
    dials: np.ndarray
    adapters_in_use: set[int]
    prompt_ends: dict[str, int]
    undecided: dict[str, int]
    ending: list[str]
    listening: dict[int, dict[str, int]]


def plan_step(batch: Any, requests: Any, scheduled: np.ndarray) -> StepPlan:
    """Decide by position which tokens of the batch are routed, so that preemption and chunked prefill change nothing.

    Args:
        batch: vLLM's input batch.
        requests: vLLM's request states, by request id.
        scheduled: number of tokens of each row of the batch in this step.
    """
    counts = scheduled[: batch.num_reqs]
    adapters, dials = np.zeros(counts.sum(), dtype=np.int64), np.zeros(counts.sum(), dtype=np.float32)
    in_use: set[int] = set()
    prompt_ends: dict[str, int] = {}
    undecided: dict[str, int] = {}
    ending: list[str] = []
    listening: dict[int, dict[str, int]] = {}
    start = 0
    for row, count in enumerate(counts):
        adapter = int(batch.request_lora_mapping[row])
        if adapter:
            request = requests[batch.req_ids[row]]
            computed, prompt = int(batch.num_computed_tokens_cpu[row]), int(batch.num_prompt_tokens[row])
            if _is_read_again(request, computed - prompt):
                request.mogu_decision, request.mogu_taken_back = "refuse", True
            settings, routed = settings_of(request), int(count)
            if settings is not None:
                routed = settings.routed_count(computed, routed, prompt, len(request.output_token_ids))
                if is_undecided(request, settings):
                    undecided[request.req_id] = adapter
                    if computed < prompt <= computed + count:
                        ending.append(request.req_id)
                if listens(request, settings) and computed + count > prompt:
                    listening.setdefault(adapter, {})[request.req_id] = computed + int(count) - prompt
                if settings.gated:
                    routed *= decided(request) in ("refuse", "careful")
                elif 0 <= prompt - 1 - computed < routed:
                    prompt_ends[request.req_id] = start + prompt - 1 - computed
                dials[start : start + routed] = settings.dial
            if routed:
                adapters[start : start + routed] = adapter
                in_use.add(adapter)
        start += int(count)
    return StepPlan(adapters, dials, in_use, prompt_ends, undecided, ending, listening)


def _is_read_again(request: Any, answered: int) -> bool:
    """Whether a request's answer was taken back. Until the scheduler has done so, steps that it had begun before are the base model's."""
    spoken: Spoken | None = getattr(request, "mogu_spoken", None)
    return spoken is not None and spoken.alarming and answered < spoken.read


def set_active_loras(runner: Any, batch: Any, scheduled: np.ndarray, sampled: np.ndarray | None, mapping_type: Any) -> None:
    """Replace vLLM's method of this name: map adapters to tokens instead of requests."""
    plan = plan_step(batch, runner.requests, scheduled)
    per_request = batch.request_lora_mapping[: batch.num_reqs]
    per_request = np.where(np.isin(per_request, list(plan.adapters_in_use)), per_request, 0)
    per_sample = per_request if sampled is None else per_request.repeat(sampled)
    # An adapter whose gate is asked has to be loaded, although no token has it yet.
    active = {batch.lora_id_to_lora_request[adapter] for adapter in {*plan.adapters_in_use, *plan.undecided.values(), *plan.listening}}
    runner._set_active_loras(tuple(per_sample), tuple(plan.token_adapters), active, mapping_type)

    step = step_buffers(_punica_wrapper(runner))
    tokens = len(plan.dials)
    step.dials[:tokens].copy_(torch.from_numpy(plan.dials), non_blocking=True)
    step.unwill_shares.zero_()
    step.routed_layers.zero_()
    runner.mogu_plan = plan


def attach_scores(runner: Any, output: Any) -> None:
    """Attach to the output of a step what was found out about prompts that end in it.

    ``mogu_scores`` holds by request id the unwill share ``α / (α + β)`` at the last prompt token, averaged over the routed layers, or the
    gate's probability; ``mogu_decisions`` what that decided. ``mogu_listened`` holds the stream head's
    probability of each answer that it listens to, and ``mogu_alarms`` how many tokens stood before what gave rise to an alarm.
    """
    plan: StepPlan | None = runner.__dict__.pop("mogu_plan", None)
    if plan is None or not (plan.prompt_ends or plan.ending or plan.listening):
        return
    scores: dict[str, float] = {}
    if plan.prompt_ends:
        step = step_buffers(_punica_wrapper(runner))
        rows = torch.tensor(list(plan.prompt_ends.values()), device=step.unwill_shares.device)
        scores |= zip(plan.prompt_ends, (step.unwill_shares[rows] / step.routed_layers[rows]).tolist(), strict=True)
    decisions: dict[str, Decision] = {}
    for request_id in plan.ending:
        request, adapter = runner.requests[request_id], plan.undecided[request_id]
        settings = settings_of(request)
        assert settings is not None
        served, logit = gates_of(runner)[adapter], prompt_logit(runner, request, adapter, settings.dial)
        scores[request_id] = float(torch.tensor(logit).sigmoid())
        decisions[request_id] = served.config.decision(scores[request_id])
        take_decision(request, decisions[request_id])
        if served.stream is not None:
            request.mogu_spoken = Spoken(served.stream.prompt * logit + served.stream.bias, len(request.prompt_token_ids))
    listened, alarms = _listen(runner, plan)
    # On a GPU, vLLM wraps the output so that it can copy tokens while the next step runs.
    found = getattr(output, "_model_runner_output", output)
    found.mogu_scores, found.mogu_decisions = scores, decisions
    found.mogu_listened, found.mogu_alarms = listened, alarms


def _listen(runner: Any, plan: StepPlan) -> tuple[dict[str, float], dict[str, int]]:
    listened: dict[str, float] = {}
    alarms: dict[str, int] = {}
    for adapter, answers in plan.listening.items():
        listened |= listen(runner, adapter, {name: (runner.requests[name].mogu_spoken, read) for name, read in answers.items()})
    for name, probability in listened.items():
        request = runner.requests[name]
        settings = settings_of(request)
        assert settings is not None
        assert settings.listen is not None
        if probability >= settings.listen:
            request.mogu_spoken.alarming = True
            alarms[name] = request.mogu_spoken.calm
        elif probability < CALM * settings.listen:
            request.mogu_spoken.calm = request.mogu_spoken.read
    return listened, alarms


def _punica_wrapper(runner: Any) -> Any:
    return next(iter(runner.lora_manager._adapter_manager.punica_wrapper_mapping.values()))  # the first one belongs to the language model
