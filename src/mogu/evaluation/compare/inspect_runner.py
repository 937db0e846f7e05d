"""A cell run by Inspect: prompts become samples, the defense a model, and the log can be opened by `inspect view`.

Knows Inspect and defenses that are ready; knows nothing of grids or of what is made of the replies.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, GenerateConfig
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
from inspect_ai.solver import TaskState, generate

from mogu.defenses import Defense
from mogu.errors import MoguError
from mogu.evaluation.inspect.batching import Batcher
from mogu.evaluation.inspect.metrics import shares
from mogu.evaluation.inspect.provider import MoguAPI
from mogu.evaluation.prompts import MALICIOUS, Asked
from mogu.evaluation.scorers import harmfulness, usability
from mogu.evaluation.scorers.harmfulness import HARMFULNESS
from mogu.evaluation.scorers.judge import judged_metrics
from mogu.evaluation.scorers.usability import DIMENSIONS
from mogu.files.atomic import scratch_beside
from mogu.inference.replies import ReplySettings

_MESSAGES: dict[str, type[ChatMessage]] = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


def run_cell(
    asked: Sequence[Asked],
    defense: Defense,
    batcher: Batcher,
    settings: ReplySettings,
    *,
    name: str,
    batch_size: int,
    log: Path,
    judge: str | None = None,
) -> EvalLog:
    """Let a defense answer prompts under Inspect; returns the log, which is then also in a file.

    Args:
        asked: the prompts.
        defense: who answers.
        batcher: the queue of its model.
        settings: length and seed of replies; they are greedy.
        name: of the model, in the log.
        batch_size: conversations at a time.
        log: the file, which appears when the run is through.
        judge: an Inspect model that rates the replies.

    Raises:
        KeyboardInterrupt: the run was interrupted.
        MoguError: the run failed.
    """
    # Prompts of like length together, so that little of a batch is padding.
    ordered = sorted(asked, key=lambda one: sum(len(turn["content"]) for turn in one.conversation))
    task = Task(
        dataset=MemoryDataset([_sample(one) for one in ordered], name=asked[0].dataset),
        solver=generate(),
        scorer=[outcome()] if judge is None else [outcome(), judged(judge)],
        config=GenerateConfig(max_tokens=settings.max_new_tokens, seed=settings.seed),
        name="compare",
    )
    model = MoguAPI.around(defense, batcher, name=name, batch_size=batch_size)
    with scratch_beside(log) as scratch:
        # Nothing is shown or streamed to a viewer: for replies of a few milliseconds that would take longer than the replies.
        (found,) = eval(
            task,
            model=model,
            log_dir=str(scratch),
            max_samples=2 * batch_size,
            display="none",
            log_realtime=False,
            log_buffer=len(asked),
            log_model_api=False,
            score_display=False,
        )
        if found.status == "cancelled":
            raise KeyboardInterrupt
        if found.status != "success":
            reason = found.error.message if found.error else "no reason given"
            raise MoguError(
                f"The run of {name} on {asked[0].dataset} ended with {found.status}: {reason}",
                expected="a run that answers every prompt",
                action="mend what the message names, and run the same command again: it goes on from here",
            )
        written = Path(found.location.removeprefix("file://"))
        os.replace(written, log)
    return read_eval_log(str(log))


@metric(scores="unreduced")  # outcomes are words: Inspect would average them to nothing
def right() -> Metric:
    """The share of right outcomes, over all prompts and by category."""

    def metric(scores: list[SampleScore]) -> Value:
        return shares(scores, lambda one: bool((one.score.metadata or {}).get("right")), name="right", by="category")

    return metric


@scorer(metrics=[right()])
def outcome() -> Scorer:
    """What a reply did with its prompt: ``answered``, ``refused``, ``complied`` or ``other``."""

    async def score(state: TaskState, target: Target) -> Score:
        one = Asked.from_json(state.metadata)
        found = one.outcome(state.output.completion)
        return Score(value=found, metadata={"right": found == one.wanted})

    return score


@scorer(metrics=judged_metrics([HARMFULNESS, *DIMENSIONS]))
def judged(judge: str) -> Scorer:
    """A judge's numbers: how harmful a reply to a malicious prompt is, how useful a reply to any other, each beside the plain request.

    Args:
        judge: its Inspect name.
    """
    harm, use = harmfulness(judge), usability(judge)

    async def score(state: TaskState, target: Target) -> Score:
        found = await (harm if Asked.from_json(state.metadata).category in MALICIOUS else use)(state, target)
        assert found is not None
        missing = dict.fromkeys([HARMFULNESS, *DIMENSIONS], float("nan"))
        return found.model_copy(update={"value": {**missing, **found.as_dict()}})

    return score


def _sample(one: Asked) -> Sample:
    messages = [_MESSAGES[turn["role"]](content=turn["content"]) for turn in one.conversation]
    return Sample(input=messages, id=one.id, metadata=asdict(one))
