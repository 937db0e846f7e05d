"""Replies that are handed on token by token, with the probability of each, for all rows of one batch; they can be stopped at any token.

Knows models and tokenizers; knows nothing of who listens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from mogu.inference.replies import Reply, ReplySettings, decode_reply, end_tokens, reply_batch

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer writes for the first bytes of a character


@dataclass(frozen=True)
class StreamedToken:
    """One token of a reply.

    Args:
        row: of the batch.
        token: its id.
        text: what it adds to the reply's text; empty where it is a part of a character, or a mark that is not shown.
        probability: that the model gave it, before a temperature or a nucleus.
    """

    row: int
    token: int
    text: str
    probability: float


def stream_replies(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    settings: ReplySettings,
    on_token: Callable[[StreamedToken], None],
    *,
    stopped: Callable[[], bool] = lambda: False,
    **options: Any,
) -> list[Reply]:
    """Reply to the prompts of one batch, and hand on each token as soon as it is there.

    Args:
        model: a base model or a hardened one, in evaluation mode. One that listens to its answers takes one prompt a call.
        tokenizer: its tokenizer.
        prompts: token ids of each prompt.
        settings: how replies are generated.
        on_token: is given each token up to the one that ends its reply, which it is not given.
        stopped: asked at each token whether all rows are to end there.
        options: more keyword arguments for the model's ``generate``.

    Returns:
        The whole replies, as :func:`mogu.inference.replies.reply_batch` does.
    """
    probabilities = _Probabilities()
    streamer = _RowStreamer(tokenizer, len(prompts), end_tokens(model, tokenizer), probabilities, on_token)
    return reply_batch(
        model,
        tokenizer,
        prompts,
        settings,
        streamer=streamer,
        logits_processor=LogitsProcessorList([probabilities]),
        stopping_criteria=StoppingCriteriaList([_Stopped(stopped)]),
        **options,
    )


class _Probabilities(LogitsProcessor):
    """Remembers the distribution that each token is drawn from, until somebody asks for the probability of the one that was."""

    def __init__(self) -> None:
        self._by_length: dict[int, Tensor] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._by_length[input_ids.shape[1]] = scores.float().log_softmax(-1).cpu()
        return scores

    def of(self, length: int, tokens: Tensor) -> list[float]:
        """Of the tokens of all rows, ``[batch]``, that came behind ``length`` others."""
        by_token = self._by_length.pop(length)
        chosen: list[float] = by_token.gather(1, tokens[:, None].cpu())[:, 0].exp().tolist()
        return chosen


class _Stopped(StoppingCriteria):
    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), self._stopped(), dtype=torch.bool, device=input_ids.device)


class _RowStreamer(BaseStreamer):
    """Tells the rows of a batch apart; the library's own streamers take one row."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: int,
        end: frozenset[int],
        probabilities: _Probabilities,
        on_token: Callable[[StreamedToken], None],
    ) -> None:
        self._texts = [_Text(tokenizer) for _ in range(rows)]
        self._ended = [False] * rows
        self._end, self._probabilities, self._on_token = end, probabilities, on_token
        self._length = 0

    def put(self, value: Tensor) -> None:
        """Take one token of each row; first of all, the prompts."""
        if value.dim() > 1:
            self._length = value.shape[1]
            return
        probabilities = self._probabilities.of(self._length, value)
        self._length += 1
        for row, (token, probability) in enumerate(zip(value.tolist(), probabilities, strict=True)):
            self._ended[row] = self._ended[row] or token in self._end
            if not self._ended[row]:
                self._on_token(StreamedToken(row, token, self._texts[row].add(token), probability))

    def end(self) -> None:
        """Nothing: whoever called has the replies."""


class _Text:
    """The text of one reply as it grows; what a token adds depends on the one before it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._before = self._shown = 0

    def add(self, token: int) -> str:
        """The text that became readable with one more token."""
        self._tokens.append(token)
        before = decode_reply(self._tokenizer, self._tokens[self._before : self._shown])
        now = decode_reply(self._tokenizer, self._tokens[self._before :])
        if len(now) <= len(before) or now.endswith(_UNFINISHED):
            return ""
        self._before, self._shown = self._shown, len(self._tokens)
        return now[len(before) :]
