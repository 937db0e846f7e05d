"""Run a cell with Inspect: prompts become samples, the defense a model, and the log can be opened by `inspect view`.

Knows Inspect and defenses that are ready; knows nothing of comparisons or of what is made of the replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, GenerateConfig
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
from inspect_ai.solver import TaskState, chain, generate

from mogu.defenses import Defense
from mogu.errors import MoguError
from mogu.evaluation.compare.cells import GUARD_UNSCORED, UNSAFE
from mogu.evaluation.inspect.batching import Batcher
from mogu.evaluation.inspect.follow_up import follow_up
from mogu.evaluation.inspect.metrics import shares
from mogu.evaluation.inspect.provider import MoguAPI
from mogu.evaluation.prompts import EvalPrompt
from mogu.evaluation.scorers import guard as guard_scorer
from mogu.evaluation.scorers import harmfulness, usability
from mogu.evaluation.scorers.guard import UNSAFE as CALLED_UNSAFE
from mogu.evaluation.scorers.harmfulness import HARMFULNESS
from mogu.evaluation.scorers.judge import UNSCORED, judged_metrics
from mogu.evaluation.scorers.usability import DIMENSIONS
from mogu.files.atomic import put_in_place, scratch_beside
from mogu.inference.replies import ReplySettings

_MESSAGES: dict[str, type[ChatMessage]] = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


def run_cell(
    prompts: Sequence[EvalPrompt],
    defense: Defense,
    batcher: Batcher,
    settings: ReplySettings,
    *,
    name: str,
    batch_size: int,
    log: Path,
    judge: str | None = None,
    guard: str | None = None,
) -> EvalLog:
    """Let a defense reply to prompts under Inspect; returns the log, which is then also in a file.

    Args:
        prompts: the prompts, all of one data set.
        defense: what replies.
        batcher: the queue of its model.
        settings: length and seed of replies; they are greedy.
        name: of the model, in the log.
        batch_size: conversations at a time.
        log: the log's file, which appears when the run is finished.
        judge: an Inspect model that rates the replies.
        guard: a guard model that says which replies are unsafe.

    Raises:
        KeyboardInterrupt: the run was interrupted.
        MoguError: the run failed.
    """
    # Prompts of similar length together, so that little of a batch is padding.
    ordered = sorted(prompts, key=lambda prompt: sum(len(turn["content"]) for turn in prompt.conversation))
    task = Task(
        dataset=MemoryDataset([_sample(prompt) for prompt in ordered], name=prompts[0].dataset),
        solver=chain(generate(), follow_up()),
        scorer=[outcome(), *([judged(judge)] if judge is not None else []), *([guarded(guard)] if guard is not None else [])],
        config=GenerateConfig(max_tokens=settings.max_new_tokens, seed=settings.seed),
        name="compare",
    )
    model = MoguAPI.around(defense, batcher, name=name, batch_size=batch_size)
    with scratch_beside(log) as scratch:
        # Nothing is shown or streamed to a viewer: for replies of a few milliseconds that would take longer than the replies.
        (run,) = eval(
            task,
            model=model,
            log_dir=str(scratch),
            max_samples=2 * batch_size,
            display="none",
            log_realtime=False,
            log_buffer=len(prompts),
            log_model_api=False,
            score_display=False,
        )
        if run.status == "cancelled":
            raise KeyboardInterrupt
        if run.status != "success":
            reason = run.error.message if run.error else "no reason given"
            raise MoguError(
                f"The run of {name} on {prompts[0].dataset} ended with {run.status}: {reason}",
                expected="a run that answers every prompt",
                action="correct what the message names, and run the same command again: it goes on from here",
            )
        written = Path(run.location.removeprefix("file://"))
        put_in_place(written, log)
    return read_eval_log(str(log))


@metric(scores="unreduced")  # outcomes are words: Inspect would average them to nothing
def right() -> Metric:
    """Compute the share of right outcomes, over all prompts and by category."""

    def metric(scores: list[SampleScore]) -> Value:
        return shares(scores, lambda score: bool((score.score.metadata or {}).get("right")), name="right", by=["category"])

    return metric


@scorer(metrics=[right()])
def outcome() -> Scorer:
    """Judge what a reply did with its prompt: ``answered``, ``refused``, ``complied`` or ``other``."""

    async def score(state: TaskState, target: Target) -> Score:
        prompt = EvalPrompt.from_json(state.metadata)
        reached = prompt.outcome(state.output.completion)
        return Score(value=reached, metadata={"right": reached == prompt.expected})

    return score


@scorer(metrics=judged_metrics([HARMFULNESS, *DIMENSIONS]))
def judged(judge: str) -> Scorer:
    """Ask a judge how harmful a reply to a malicious prompt is, or how useful a reply to any other; it sees the plain request.

    Args:
        judge: its Inspect name.
    """
    harm, use = harmfulness(judge), usability(judge)

    async def score(state: TaskState, target: Target) -> Score:
        rating = await (harm if EvalPrompt.from_json(state.metadata).is_malicious else use)(state, target)
        assert rating is not None
        missing = dict.fromkeys([HARMFULNESS, *DIMENSIONS], float("nan"))
        return rating.model_copy(update={"value": {**missing, **rating.as_dict()}})

    return score


@scorer(metrics=judged_metrics([UNSAFE], [GUARD_UNSCORED]))
def guarded(guard: str) -> Scorer:
    """Ask a guard whether a reply is unsafe.

    Args:
        guard: its name.
    """
    ask = guard_scorer(guard)

    async def score(state: TaskState, target: Target) -> Score:
        verdict = await ask(state, target)
        assert verdict is not None
        values = verdict.as_dict()
        return verdict.model_copy(update={"value": {UNSAFE: values[CALLED_UNSAFE], GUARD_UNSCORED: values[UNSCORED]}})

    return score


def _sample(prompt: EvalPrompt) -> Sample:
    messages = [_MESSAGES[turn["role"]](content=turn["content"]) for turn in prompt.conversation]
    return Sample(input=messages, id=prompt.id, metadata=asdict(prompt))
