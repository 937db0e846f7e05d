"""What the base model thinks while it reads prompts, and while it answers them: hidden states of a few decoder layers.

Knows models and token ids; knows nothing of labels, or of what is fitted to the states.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache

from mogu.inference.batches import in_batches, in_batches_side_by_side, rows_in_memory
from mogu.inference.padding import padding_id, right_pad
from mogu.inference.replies import ReplySettings, reply_tokens
from mogu.inference.turns import TurnMarks
from mogu.modeling.architectures import find_output_projections
from mogu.modeling.gated.gate import AllRead
from mogu.modeling.gated.injection import listen_at
from mogu.modeling.routing import RoutingController, RoutingScope
from mogu.processes import shards
from mogu.transformers_compat import cache_argument, cache_of, repeat_rows


@torch.no_grad()
def read_prompts(
    base: Any,
    prompts: Sequence[list[int]],
    *,
    taps: Sequence[int],
    marks: TurnMarks,
    pad_token_id: int,
    batch_size: int,
    output_projection: str | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """What a gate reads of each prompt: hidden states of the user's tokens, and then of the last token before the answer.

    One pass of the base model, up to the last tap. What all prompts begin with, such as a system prompt, is read once.

    Args:
        base: the base model, plain, in evaluation mode.
        prompts: token ids of each.
        taps: the decoder layers to read.
        marks: what stands around the user's turns.
        pad_token_id: fills up rows.
        batch_size: prompts a pass, at most.
        output_projection: path of the attention output projection in a decoder layer, by which the layers are found.
        advance: is told how many prompts each pass had.

    Returns:
        For each prompt, ``[user's tokens + 1, taps, d]`` in the model's own dtype, on the CPU: all of them parts of one tensor.
    """
    spans = [marks.spans(prompt) for prompt in prompts]
    shared = min(_common_start(prompts), *(found.user[0][0] for found in spans))
    cache = _read_once(base, prompts[0][:shared]) if shared else None
    if type(cache) is not DynamicCache:  # of a kind that cannot be had for several rows
        shared, cache = 0, None

    of_users = [torch.cat([torch.arange(*turn) for turn in found.user]) for found in spans]
    columns = [torch.cat([user, torch.tensor([found.last])]) - shared for user, found in zip(of_users, spans, strict=True)]
    # Thousands of small tensors would leave holes in memory that nothing large fits into once they are gone.
    states = torch.empty(sum(map(len, columns)), len(taps), base.config.get_text_config().hidden_size, dtype=base.dtype)
    by_prompt = states.split_with_sizes(list(map(len, columns)))

    @torch.no_grad()  # in a thread of its own
    def read(indices: list[int]) -> list[None]:
        rows = [prompts[index][shared:] for index in indices]
        heard = hear(rows, [columns[index] for index in indices], **_behind(base, cache, len(indices)))
        for index, of_prompt in zip(indices, heard, strict=True):
            by_prompt[index].copy_(of_prompt)
        return [None] * len(indices)

    with _hearing(base, taps, pad_token_id, output_projection) as hear:
        side_by_side = base.device.type == "cpu" and not shards()  # the layers of a sharded model are put together for one pass at a time
        spread = in_batches_side_by_side if side_by_side else in_batches
        spread(read, [len(prompt) - shared for prompt in prompts], most=lambda _: batch_size, advance=advance)
    return list(by_prompt)


@torch.no_grad()
def read_answers(
    base: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    taps: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    output_projection: str | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """What a stream head reads of the base model's own greedy answers: hidden states at each of their tokens.

    Args:
        base: the base model, plain, in evaluation mode.
        tokenizer: its tokenizer.
        prompts: token ids of each prompt.
        taps: the decoder layers to read.
        max_new_tokens: tokens of each answer, at most.
        batch_size: answers at a time, at most; fewer where memory is short.
        output_projection: as of :func:`read_prompts`.
        advance: is told how many answers each pass had.

    Returns:
        For each prompt, ``[answer's tokens, taps, d]`` in the model's own dtype, on the CPU.
    """

    def read(indices: list[int]) -> list[Tensor]:
        asked = [prompts[index] for index in indices]
        answers = reply_tokens(base, tokenizer, asked, ReplySettings(max_new_tokens))
        rows = [prompt + answer for prompt, answer in zip(asked, answers, strict=True)]
        return hear(rows, [torch.arange(len(prompt), len(row)) for prompt, row in zip(asked, rows, strict=True)], use_cache=False)

    with _hearing(base, taps, padding_id(tokenizer, base), output_projection) as hear:
        return in_batches(
            read,
            list(map(len, prompts)),
            most=lambda longest: min(batch_size, rows_in_memory(base, longest + max_new_tokens)),
            advance=advance,
        )


_Hear = Callable[..., list[Tensor]]


@contextmanager
def _hearing(base: Any, taps: Sequence[int], pad_token_id: int, output_projection: str | None) -> Iterator[_Hear]:
    """Gives a function that hears the taps in one pass: of each row ``[columns, taps, d]``."""
    scope = RoutingScope()
    handles = listen_at(base, scope, taps, find_output_projections(base, output_projection)[0].name)

    def hear(rows: Sequence[Sequence[int]], columns: Sequence[Tensor], **options: Any) -> list[Tensor]:
        controller = RoutingController(scope, "off")
        controller.reader = collecting = _Collecting(taps, columns)
        # Padded on the right and without a mask: causal attention never looks to the right, and reading is faster so.
        with controller, suppress(AllRead):
            base(input_ids=right_pad(rows, pad_token_id, base.device), **options)
        return collecting.states()

    try:
        yield hear
    finally:
        for handle in handles:
            handle.remove()


def _common_start(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with alike, such as a system prompt; each keeps one of its own at least."""
    first, shortest = prompts[0], min(map(len, prompts)) - 1
    return next((index for index in range(shortest) if any(prompt[index] != first[index] for prompt in prompts)), shortest)


def _read_once(base: Any, tokens: Sequence[int]) -> Any:
    """The key-value cache of what all prompts begin with."""
    return cache_of(base(input_ids=torch.tensor([list(tokens)], device=base.device), use_cache=True))


def _behind(base: Any, cache: Any, rows: int) -> dict[str, Any]:
    """Options of a pass behind what has been read once."""
    if cache is None:
        return {"use_cache": False}
    copied = copy.deepcopy(cache)  # a pass writes into its cache
    repeat_rows(copied, rows)
    return {"use_cache": True, cache_argument(base): copied}


class _Collecting:
    def __init__(self, taps: Sequence[int], columns: Sequence[Tensor]) -> None:
        self._taps, self._columns = taps, columns
        self._heard: dict[int, list[Tensor]] = {}

    def read(self, tap: int, hidden: Tensor) -> None:
        self._heard[tap] = [row[columns.to(row.device)].cpu() for row, columns in zip(hidden, self._columns, strict=True)]
        if len(self._heard) == len(self._taps):
            raise AllRead

    def states(self) -> list[Tensor]:
        return [torch.stack(of_taps, dim=1) for of_taps in zip(*(self._heard[tap] for tap in self._taps), strict=True)]
