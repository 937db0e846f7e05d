"""Answers of several sides at once: those of one model in one batch, those of others beside it, token by token.

Knows sides, conversations and the events that tell of an answer; knows nothing of pages or of who is asking.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mogu.errors import ConfigError
from mogu.inference.prompts import Conversation, encode_prompt
from mogu.inference.replies import Reply, ReplySettings
from mogu.inference.streaming import StreamedToken, stream_replies
from mogu.inference.thoughts import without_thoughts
from mogu.modeling.explanation import explain
from mogu.playground.sides import Side
from mogu.refusals import classify_refusal

Event = dict[str, Any]
"""What happened, ready for JSON: its ``type``, the ``column`` it happened in, and what there is to say."""

Emit = Callable[[Event], None]
"""Is told of each event, in order for each column; may be called from several threads."""


@dataclass(frozen=True)
class Question:
    """What one side is asked.

    Args:
        side: who is asked.
        conversation: messages; the last one is the user's, or the beginning of the answer.
        column: where the answer is shown.
        request: what replies are judged against; by default the user's last message.
    """

    side: Side
    conversation: Conversation
    column: int
    request: str | None = None

    @property
    def asked(self) -> str:
        """What replies are judged against."""
        if self.request is not None:
            return self.request
        return next((str(turn["content"]) for turn in reversed(self.conversation) if turn["role"] == "user"), "")


def answer(
    questions: Sequence[Question],
    settings: ReplySettings,
    emit: Emit,
    *,
    dial: float | None = None,
    explained: bool = True,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Answer questions, and tell of each explanation, token and whole reply.

    Events are ``{"type": "why", …}`` with an :class:`~mogu.modeling.explanation.Explanation` for a hardened side, ``{"type": "token",
    "text", "probability"}`` for each token, and ``{"type": "reply", "text", "verdict", "evidence", "tokens", "seconds", "finished"}``,
    whose seconds are those to its last token.

    Args:
        questions: what is asked, and of whom.
        settings: how replies are generated.
        emit: is told.
        dial: ``δ`` of hardened sides; ``None`` is each model's own.
        explained: whether hardened sides explain their scores.
        stopped: asked at each token whether to end.

    Raises:
        MoguError: a conversation cannot be put to its model.
    """
    prompts = [_encoded(question, settings.max_new_tokens) for question in questions]
    groups: dict[tuple[int, int | None], list[int]] = {}
    for index, question in enumerate(questions):
        alone = index if question.side.streams_alone or question.side.defense is not None else None
        groups.setdefault((id(question.side.model), alone), []).append(index)

    def answer_group(group: list[int]) -> None:
        asked = [questions[index] for index in group]
        if explained:
            for question in asked:
                _explain(question, dial, emit)
        if not stopped():
            _answer_group(asked, [prompts[index] for index in group], settings, emit, dial, stopped)

    if len(groups) == 1:
        answer_group(next(iter(groups.values())))
        return
    with ThreadPoolExecutor(len(groups)) as threads:
        list(threads.map(answer_group, groups.values()))


def _explain(question: Question, dial: float | None, emit: Emit) -> None:
    if question.side.hardened is not None:
        explanation = explain(question.side.hardened, question.conversation, dial=dial)
        emit({"type": "why", "column": question.column, **asdict(explanation), **_sums(explanation)})


def _sums(explanation: Any) -> Event:
    return {"by_token": explanation.by_token, "by_layer": explanation.by_layer, "logit": explanation.logit}


def _answer_group(
    questions: list[Question],
    prompts: list[list[int]],
    settings: ReplySettings,
    emit: Emit,
    dial: float | None,
    stopped: Callable[[], bool],
) -> None:
    side, started = questions[0].side, time.perf_counter()
    if side.defense is not None:  # answers when it is done: some of them generate several times, or look at a whole reply
        defended = side.defense.reply([questions[0].conversation], settings)[0]
        _emit_reply(questions[0], Reply(defended.text, defended.tokens, defended.finished), time.perf_counter() - started, emit)
        return
    seconds = [0.0] * len(questions)

    def on_token(token: StreamedToken) -> None:
        seconds[token.row] = time.perf_counter() - started
        emit({"type": "token", "column": questions[token.row].column, "text": token.text, "probability": token.probability})

    routed = torch.tensor([question.side.hardened is not None for question in questions])
    with _mode(side.model, routed, dial):
        replies = stream_replies(side.model, side.tokenizer, prompts, settings, on_token, stopped=stopped)
    for question, reply, taken in zip(questions, replies, seconds, strict=True):
        _emit_reply(question, reply, taken, emit)


def _mode(model: Any, routed: torch.Tensor, dial: float | None) -> Any:
    """The mode in which hardened and plain rows of one batch are each answered by their own."""
    if not hasattr(model, "routing"):
        return nullcontext()
    if not routed.any():
        return model.routing("off")
    return model.routing("on", rows=None if routed.all() else routed.to(model.device), dial=dial)


def _emit_reply(question: Question, reply: Reply, seconds: float, emit: Emit) -> None:
    verdict = classify_refusal(question.asked, reply.text)
    emit(
        {
            "type": "reply",
            "column": question.column,
            "text": without_thoughts(reply.text).strip(),
            "verdict": verdict.label,
            "evidence": verdict.evidence,
            "tokens": reply.tokens,
            "seconds": seconds,
            "finished": reply.finished,
        }
    )


def _encoded(question: Question, room: int) -> list[int]:
    ids = encode_prompt(question.side.tokenizer, question.conversation)
    config = question.side.model.config.get_text_config(decoder=True)
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and len(ids) + room > longest:
        raise ConfigError(
            f"The conversation has {len(ids):,} tokens, and a reply may take {room:,} more",
            expected=f"at most {longest:,} tokens, which is what {question.side.name} reads",
            action="begin a new conversation, or ask for shorter replies",
        )
    return ids
