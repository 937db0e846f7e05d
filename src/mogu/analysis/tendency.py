"""Response tendency: a model's leaning to affirm or to refuse an instruction, before it has said a word.

For a prompt ``p`` and an opening ``o`` of ``|o|`` tokens, with banks ``A`` of affirmative and ``R`` of refusing openings:

.. code-block:: text

    ℓ(o | p)    = (1/|o|) · Σ_t log P(o_t | p, o_<t)                       nats per token
    tendency(p) = mean over A of ℓ(o | p)  −  mean over R of ℓ(o | p)

It is the *mean* over an opening's tokens, not their sum: a sum falls with every token, so a difference of sums says most about which
bank has the longer openings (refusals do, and by how much depends on the tokenizer), and a user who adds one long opening would move
every number. Positive leans to affirm. What the end of an opening would have been is left open: nothing closes the turn.

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

from mogu.analysis.answer_openings import Openings
from mogu.errors import ConfigError, DataError, ModelFileError
from mogu.inference.padding import left_pad
from mogu.inference.prompts import Prompt, as_conversation, encode_answer, encode_prompt, render_prompt
from mogu.modeling.model import MoguModel
from mogu.transformers_compat import cache_argument, cache_of


@dataclass(frozen=True)
class Leaning:
    """What was measured of one prompt.

    Args:
        affirm: ``ℓ(o | p)`` of each affirmative opening, in the bank's order.
        refuse: the same of each refusing one.
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
    def tendency(self) -> float:
        """The leaning to affirm, in nats per token; negative leans to refuse."""
        return self.affirm_mean - self.refuse_mean


class Question(NamedTuple):
    """A prompt with every opening that may follow it, as token ids.

    Args:
        prompt: token ids of the prompt.
        openings: token ids of each opening, affirmative ones first.
    """

    prompt: tuple[int, ...]
    openings: tuple[tuple[int, ...], ...]


class Questions:
    """Makes questions; openings are tokenized once for each text that a template puts before an answer, which is mostly once.

    Args:
        tokenizer: with a chat template.
        openings: both banks.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, openings: Openings) -> None:
        self._tokenizer, self._openings = tokenizer, openings
        self._made: dict[str, tuple[tuple[int, ...], ...]] = {}

    def of(self, prompt: Prompt) -> Question:
        """The question of one prompt.

        Raises:
            ChatTemplateError: the tokenizer has no chat template, or the template fails.
            DataError: an opening has no tokens.
        """
        rendered = render_prompt(self._tokenizer, prompt)
        said = as_conversation(prompt)[-1]["content"].strip()  # a tool's result may be empty
        border = (rendered.rpartition(said)[2] if said else "") or rendered  # tokens of an opening depend on nothing before this
        if border not in self._made:
            self._made[border] = tuple(self._tokens(prompt, opening) for opening in self._openings.all)
        return Question(tuple(encode_prompt(self._tokenizer, prompt)), self._made[border])

    def _tokens(self, prompt: Prompt, opening: str) -> tuple[int, ...]:
        ids = tuple(encode_answer(self._tokenizer, prompt, opening, closed=False))
        if not ids:
            raise DataError(f"The opening {opening!r} has no tokens", expected="an opening that the tokenizer knows", action="leave it out")
        return ids


def check_lengths(model: Any, questions: Sequence[Question], names: Sequence[str]) -> None:
    """Refuse prompts beyond the model's positions, before any pass is made.

    Raises:
        DataError: prompt and longest opening do not fit; the message names the instruction.
    """
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for question, name in zip(questions, names, strict=True):
        longest = len(question.prompt) + max(map(len, question.openings))
        if most is not None and longest > most:
            raise DataError(
                f"The instruction {name} has, with the longest opening, {longest:,} tokens",
                expected=f"at most {most:,}, the model's positions",
                action="shorten or drop it",
            )


def leanings(model: Any, questions: Sequence[Question], *, batch_size: int = 8) -> Iterator[dict[int, tuple[float, ...]]]:
    """Measure questions, batch by batch, those of like length together.

    A routed model in mode ``"on"`` is measured as it decodes: the first ``routed_tokens`` tokens of an opening with routing,
    later ones by the base model after the config's handoff. In any other mode all of an opening is measured in that mode.

    Args:
        model: a base model or a :class:`~mogu.MoguModel`, in evaluation mode.
        questions: what is measured.
        batch_size: prompts a pass; in the pass after it stands every one of them once for each opening.

    Yields:
        For the questions of each batch, by their places, ``ℓ`` of each opening.

    Raises:
        ConfigError: the model keeps no key-value cache that can be shared, or ``batch_size`` is no number from 1.
        ModelFileError: the model gives probabilities that are no numbers.
    """
    if batch_size < 1:
        raise ConfigError(f"The batch size is {batch_size}", expected="a whole number from 1", action="correct it")
    order = sorted(range(len(questions)), key=lambda place: len(questions[place].prompt))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        measured = opening_log_probabilities(model, [questions[place] for place in places])
        if not bool(torch.isfinite(measured).all()):
            raise ModelFileError(
                "The model gives probabilities that are no numbers",
                expected="finite ones",
                action="use bfloat16 or float32, or mend the model",
            )
        yield {place: tuple(row) for place, row in zip(places, measured.tolist(), strict=True)}


@torch.no_grad()
def opening_log_probabilities(model: Any, questions: Sequence[Question]) -> Tensor:
    """``ℓ(o | p)`` of every opening, ``[prompts, openings]``: each prompt is read once, and all openings go on from its cache.

    Args:
        model: see :func:`leanings`.
        questions: one batch; each has equally many openings.
    """
    rows = [opening for question in questions for opening in question.openings]
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)  # padded on the right: causal attention never looks there
    for row, opening in enumerate(rows):
        ids[row, : len(opening)] = torch.tensor(opening)
    by_token = _by_token(model, [list(question.prompt) for question in questions], ids.to(model.device))
    counted = torch.arange(ids.shape[1], device=model.device) < lengths[:, None]
    means = torch.where(counted, by_token, 0).sum(1) / lengths
    return means.view(len(questions), -1)


def _by_token(model: Any, prompts: list[list[int]], ids: Tensor) -> Tensor:
    """``log P`` of each token of the openings ``ids [rows, tokens]``, as the model would decode them; the shape of ``ids``."""
    if not isinstance(model, MoguModel) or model.routing_mode != "on":
        return _Reading(model, prompts, len(ids)).follow(ids)
    tokens = ids.shape[1]
    routed = tokens if (m := model.mogu_config.routed_tokens) == "all" else min(m, tokens)
    if routed == 0:
        with model.routing("off"):
            return _Reading(model, prompts, len(ids)).follow(ids)
    reading = _Reading(model, prompts, len(ids))
    head = reading.follow(ids[:, :routed])
    if routed == tokens:
        return head
    with model.routing("off"):
        if model.mogu_config.handoff == "continue":
            return torch.cat([head, reading.go_on(ids[:, routed - 1 :])], 1)
        return torch.cat([head, _Reading(model, prompts, len(ids)).follow(ids)[:, routed:]], 1)


class _Reading:
    """Prompts that have been read once, their cache spread over the rows that go on from them.

    Args:
        model: in the mode in which the prompts are read.
        prompts: token ids of each.
        rows: how many rows go on from them, equally many from each.
    """

    def __init__(self, model: Any, prompts: list[list[int]], rows: int) -> None:
        self._model = model.base_model if isinstance(model, MoguModel) else model
        batch = left_pad(prompts, 0, model.device)
        copies = rows // len(prompts)
        output = self._pass(batch["input_ids"], batch["attention_mask"], logits_to_keep=1)
        self._cache = _repeated(cache_of(output), copies, self._model)
        self._mask = batch["attention_mask"].repeat_interleave(copies, 0)
        self._next = output.logits[:, -1:].repeat_interleave(copies, 0)  # [rows, 1, vocabulary]

    def follow(self, ids: Tensor) -> Tensor:
        """``log P`` of the tokens ``ids [rows, tokens]`` that stand directly after the prompts."""
        first = _log_probabilities(self._next, ids[:, :1])
        return first if ids.shape[1] == 1 else torch.cat([first, self.go_on(ids)], 1)

    def go_on(self, ids: Tensor) -> Tensor:
        """``log P`` of all but the first of the tokens ``ids [rows, tokens]``, the first of which follows what was read so far."""
        read = ids[:, :-1]
        self._mask = torch.cat([self._mask, torch.ones_like(read)], 1)
        output = self._pass(read, self._mask, self._cache)
        self._cache = cache_of(output)
        return _log_probabilities(output.logits, ids[:, 1:])

    def _pass(self, ids: Tensor, mask: Tensor, cache: Any = None, **options: Any) -> Any:
        # Padding on the left: a token's position counts the real tokens before it.
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        accepted = inspect.signature(self._model.forward).parameters
        given = {name: value for name, value in {"position_ids": positions, **options}.items() if name in accepted}
        if cache is not None:
            given[cache_argument(self._model)] = cache
        return self._model(input_ids=ids, attention_mask=mask, use_cache=True, **given)


def _repeated(cache: Any, copies: int, model: Any) -> Any:
    if not hasattr(cache, "batch_repeat_interleave"):
        raise ConfigError(
            f"{type(model).__name__} keeps no key-value cache that openings could share",
            expected="a causal language model with a key-value cache of transformers",
            action="measure another model",
        )
    cache.batch_repeat_interleave(copies)
    return cache


def _log_probabilities(logits: Tensor, ids: Tensor) -> Tensor:
    """``log P`` of ``ids [rows, tokens]`` by ``logits [rows, tokens, vocabulary]``, in float32 at least."""
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return precise.gather(-1, ids[..., None])[..., 0] - precise.logsumexp(-1)
