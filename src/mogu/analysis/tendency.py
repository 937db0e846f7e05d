"""Response tendency: whether a model tends to affirm or to refuse an instruction, measured before it has generated a token.

For a prompt ``p`` and an opening ``o`` of ``|o|`` tokens, with banks ``A`` of affirmative and ``R`` of refusing openings:

.. code-block:: text

    ℓ(o | p)    = (1/|o|) · Σ_t log P(o_t | p, o_<t)                       nats per token
    tendency(p) = mean over A of ℓ(o | p)  −  mean over R of ℓ(o | p)

``ℓ`` is the *mean* over an opening's tokens, not their sum. A sum falls with every token, so a difference of sums would mostly say which
bank has the longer openings (refusals do, and by how much depends on the tokenizer), and a single long opening that a user adds would
shift every number. A positive tendency leans to affirm. The end of an opening is left open: no token closes the turn.

Knows models, tokenizers and token ids; knows nothing of files or labels.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mogu.analysis.answer_openings import AnswerOpenings
from mogu.errors import ConfigError, DataError, ModelFileError
from mogu.inference.padding import left_pad
from mogu.inference.prompts import Prompt, as_conversation, encode_answer, encode_prompt, render_prompt
from mogu.modeling.model import MoguModel
from mogu.transformers_compat import cache_argument, cache_of, repeat_rows


@dataclass(frozen=True)
class Tendency:
    """The measurements of one prompt.

    Args:
        affirm: ``ℓ(o | p)`` of each affirmative opening, in the bank's order.
        refuse: the same for each refusing opening.
    """

    affirm: tuple[float, ...]
    refuse: tuple[float, ...]

    @property
    def affirm_mean(self) -> float:
        """Mean of ``ℓ`` over affirmative openings."""
        return math.fsum(self.affirm) / len(self.affirm)

    @property
    def refuse_mean(self) -> float:
        """Mean of ``ℓ`` over refusing openings."""
        return math.fsum(self.refuse) / len(self.refuse)

    @property
    def value(self) -> float:
        """The tendency, in nats per token; positive leans to affirm, negative to refuse."""
        return self.affirm_mean - self.refuse_mean


class PromptWithOpenings(NamedTuple):
    """A prompt with every opening that may follow it, as token ids.

    Args:
        prompt: token ids of the prompt.
        openings: token ids of each opening, affirmative ones first.
    """

    prompt: tuple[int, ...]
    openings: tuple[tuple[int, ...], ...]


class OpeningEncoder:
    """Encode prompts with openings; openings are tokenized once for each text that a template puts before an answer, usually once.

    Args:
        tokenizer: a tokenizer with a chat template.
        openings: both banks.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, openings: AnswerOpenings) -> None:
        self._tokenizer, self._openings = tokenizer, openings
        self._openings_after: dict[str, tuple[tuple[int, ...], ...]] = {}

    def encode(self, prompt: Prompt) -> PromptWithOpenings:
        """Return the token ids of a prompt and of the openings after it.

        Raises:
            ChatTemplateError: the tokenizer has no chat template, or the template fails.
            DataError: an opening has no tokens.
        """
        rendered = render_prompt(self._tokenizer, prompt)
        last_text = as_conversation(prompt)[-1]["content"].strip()  # a tool's result may be empty
        # The tokens of an opening depend on nothing before this.
        border = (rendered.rpartition(last_text)[2] if last_text else "") or rendered
        if border not in self._openings_after:
            self._openings_after[border] = tuple(self._tokens(prompt, opening) for opening in self._openings.all)
        return PromptWithOpenings(tuple(encode_prompt(self._tokenizer, prompt)), self._openings_after[border])

    def _tokens(self, prompt: Prompt, opening: str) -> tuple[int, ...]:
        ids = tuple(encode_answer(self._tokenizer, prompt, opening, closed=False))
        if not ids:
            raise DataError(f"The opening {opening!r} has no tokens", expected="an opening that the tokenizer knows", action="leave it out")
        return ids


def check_opening_lengths(model: Any, prompts: Sequence[PromptWithOpenings], names: Sequence[str]) -> None:
    """Refuse prompts that do not fit into the model's positions, before any forward pass.

    Raises:
        DataError: a prompt with its longest opening does not fit; the message names the instruction.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for prompt, name in zip(prompts, names, strict=True):
        longest = len(prompt.prompt) + max(map(len, prompt.openings))
        if positions is not None and longest > positions:
            raise DataError(
                f"The instruction {name} has, with the longest opening, {longest:,} tokens",
                expected=f"at most {positions:,}, the model's positions",
                action="shorten or drop it",
            )


def measure_openings(model: Any, prompts: Sequence[PromptWithOpenings], *, batch_size: int = 8) -> Iterator[dict[int, tuple[float, ...]]]:
    """Measure ``ℓ`` of every opening after every prompt, batch by batch; prompts of similar length share a batch.

    A routed model in mode ``"on"`` is measured as it decodes: the first ``routed_tokens`` tokens of an opening with routing, later
    ones by the base model after the config's handoff. In any other mode the whole opening is measured in that mode.

    Args:
        model: a base model or a :class:`~mogu.MoguModel`, in evaluation mode.
        prompts: the prompts with their openings.
        batch_size: number of prompts in one forward pass; the next pass has each of them once for every opening.

    Yields:
        For the prompts of one batch, by their indices, ``ℓ`` of each opening.

    Raises:
        ConfigError: the model has no key-value cache that can be shared, or ``batch_size`` is below 1.
        ModelFileError: the model's probabilities are not finite.
    """
    if batch_size < 1:
        raise ConfigError(f"The batch size is {batch_size}", expected="a whole number from 1", action="correct it")
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].prompt))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        log_probabilities = opening_log_probabilities(model, [prompts[index] for index in chosen])
        if not bool(torch.isfinite(log_probabilities).all()):
            raise ModelFileError(
                "The model's probabilities are not finite",
                expected="finite numbers",
                action="use bfloat16 or float32, or repair the model",
            )
        yield {index: tuple(row) for index, row in zip(chosen, log_probabilities.tolist(), strict=True)}


@torch.no_grad()
def opening_log_probabilities(model: Any, prompts: Sequence[PromptWithOpenings]) -> Tensor:
    """Return ``ℓ(o | p)`` of every opening, ``[prompts, openings]``; each prompt is read once, and all its openings share its cache.

    Args:
        model: see :func:`measure_openings`.
        prompts: one batch, in which each prompt has the same number of openings.
    """
    rows = [opening for prompt in prompts for opening in prompt.openings]
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)  # padded on the right: causal attention never looks there
    for row, opening in enumerate(rows):
        ids[row, : len(opening)] = torch.tensor(opening)
    by_token = _by_token(model, [list(prompt.prompt) for prompt in prompts], ids.to(model.device))
    is_token = torch.arange(ids.shape[1], device=model.device) < lengths[:, None]
    means = torch.where(is_token, by_token, 0).sum(1) / lengths
    return means.view(len(prompts), -1)


def _by_token(model: Any, prompts: list[list[int]], ids: Tensor) -> Tensor:
    """Return ``log P`` of each token of the openings ``ids [rows, tokens]``, as the model would decode them; in the shape of ``ids``."""
    if not isinstance(model, MoguModel) or model.routing_mode != "on":
        return _SharedPrompts(model, prompts, len(ids)).log_probabilities(ids)
    tokens = ids.shape[1]
    routed = tokens if (m := model.mogu_config.routed_tokens) == "all" else min(m, tokens)
    if routed == 0:
        with model.routing("off"):
            return _SharedPrompts(model, prompts, len(ids)).log_probabilities(ids)
    routed_prompts = _SharedPrompts(model, prompts, len(ids))
    head = routed_prompts.log_probabilities(ids[:, :routed])
    if routed == tokens:
        return head
    with model.routing("off"):
        if model.mogu_config.handoff == "continue":
            return torch.cat([head, routed_prompts.continued(ids[:, routed - 1 :])], 1)
        return torch.cat([head, _SharedPrompts(model, prompts, len(ids)).log_probabilities(ids)[:, routed:]], 1)


class _SharedPrompts:
    """Prompts that are read once, with their cache repeated for the rows that continue them.

    Args:
        model: in the mode in which the prompts are read.
        prompts: token ids of each.
        rows: number of rows that continue the prompts, the same number for each.
    """

    def __init__(self, model: Any, prompts: list[list[int]], rows: int) -> None:
        self._model = model.base_model if isinstance(model, MoguModel) else model
        batch = left_pad(prompts, 0, model.device)
        copies = rows // len(prompts)
        output = self._forward(batch["input_ids"], batch["attention_mask"], logits_to_keep=1)
        self._cache = _repeated(cache_of(output), copies, len(prompts), self._model)
        self._mask = batch["attention_mask"].repeat_interleave(copies, 0)
        self._next_logits = output.logits[:, -1:].repeat_interleave(copies, 0)  # [rows, 1, vocabulary]

    def log_probabilities(self, ids: Tensor) -> Tensor:
        """Return ``log P`` of the tokens ``ids [rows, tokens]`` directly after the prompts."""
        first = _log_probabilities(self._next_logits, ids[:, :1])
        return first if ids.shape[1] == 1 else torch.cat([first, self.continued(ids)], 1)

    def continued(self, ids: Tensor) -> Tensor:
        """Return ``log P`` of all but the first of the tokens ``ids [rows, tokens]``; the first follows what was read so far."""
        inputs = ids[:, :-1]
        self._mask = torch.cat([self._mask, torch.ones_like(inputs)], 1)
        output = self._forward(inputs, self._mask, self._cache)
        self._cache = cache_of(output)
        return _log_probabilities(output.logits, ids[:, 1:])

    def _forward(self, ids: Tensor, mask: Tensor, cache: Any = None, **options: Any) -> Any:
        # With padding on the left, a token's position is the number of tokens before it that are not padding.
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        accepted = inspect.signature(self._model.forward).parameters
        given = {name: value for name, value in {"position_ids": positions, **options}.items() if name in accepted}
        if cache is not None:
            given[cache_argument(self._model)] = cache
        return self._model(input_ids=ids, attention_mask=mask, use_cache=True, **given)


def _repeated(cache: Any, copies: int, rows: int, model: Any) -> Any:
    if not hasattr(cache, "reorder_cache"):
        raise ConfigError(
            f"{type(model).__name__} keeps no key-value cache that openings could share",
            expected="a causal language model with a key-value cache of transformers",
            action="measure another model",
        )
    repeat_rows(cache, copies, rows=rows)
    return cache


def _log_probabilities(logits: Tensor, ids: Tensor) -> Tensor:
    """Return ``log P`` of ``ids [rows, tokens]`` by ``logits [rows, tokens, vocabulary]``, in float32 at least."""
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return precise.gather(-1, ids[..., None])[..., 0] - precise.logsumexp(-1)
