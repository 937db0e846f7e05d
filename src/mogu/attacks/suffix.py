"""A suffix behind a request, as tokens: where it stands in the prompt, which texts give exactly these tokens, and a search for better ones.

What is optimized must be what is served: a suffix counts only if the prompt with its text is tokenized into its very tokens again. Knows
prompts, tokenizers and surfaces; knows nothing of how candidates are proposed.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mogu.attacks.attempt import Attempts, Context, ask
from mogu.attacks.surface import Surface
from mogu.data import opening_for
from mogu.defenses.target_model import TargetModel
from mogu.errors import ConfigError
from mogu.evaluation.prompts import EvalPrompt
from mogu.inference.prompts import encode_answer

WORDS = 20
"""Words of the suffix that a search starts from, ``x x x …``; to most tokenizers each is one token."""

CANDIDATES, FEWEST = 64, 8
"""Suffixes that are evaluated in each step, at most and at least."""

LEAST_STEPS = 10
"""Steps that a small budget should allow: the fewer operations there are, the fewer candidates a step has."""

TRIES = 4
"""How many suffixes are proposed for each that is evaluated, at most: some are not tokenized again as they were."""

STEPS = 500
"""Steps of a search, at most."""

EVERY = 5
"""After how many steps the best suffix so far is tried, if it is a new one."""

Tokens = tuple[int, ...]


class SuffixLayout:
    """A prompt as token ids ``before + suffix + after``, and the beginning of an answer that is wanted.

    Args:
        behavior: its last user message is what the suffix stands behind; earlier turns stay.
        target: whose tokenizer and chat template make the prompt.
        rng: chooses the wanted opening, see :func:`mogu.data.opening_for`.

    Raises:
        ConfigError: the chat template or the tokenizer changes a message so that not even the first suffix comes out as it went in.
    """

    def __init__(self, behavior: EvalPrompt, target: TargetModel, rng: random.Random) -> None:
        self.behavior, self.target = behavior, target
        # Two prompts that differ in every word of the suffix differ in all its tokens, and in no other.
        whole, other = (self._encode(" ".join([word] * WORDS)) for word in ("x", "y"))
        length = min(len(whole), len(other))
        first = next((index for index in range(length) if whole[index] != other[index]), length)
        last = next((index for index in range(length) if whole[-1 - index] != other[-1 - index]), length)
        self.before, self.start, self.after = (
            tuple(part) for part in (whole[:first], whole[first : len(whole) - last], whole[len(whole) - last :])
        )
        """Token ids in front of the suffix, of the first suffix, and behind the suffix."""
        if not self.start or self.text(self.start) is None:
            raise ConfigError(
                f"A suffix of {WORDS} letters does not survive the chat template of {target.tokenizer.name_or_path or 'this model'}",
                expected="a template that writes the user's message as it is",
                action="leave out the attacks that optimize a suffix",
            )
        opening = opening_for(behavior.request, rng)
        prompt = target.with_system_prompt(self._conversation(" ".join(["x"] * WORDS)))
        self.target_ids: Tokens = tuple(encode_answer(target.tokenizer, prompt, opening, closed=False))
        """Token ids of the answer's beginning that is wanted."""

    def text(self, suffix: Sequence[int]) -> str | None:
        """The text of a suffix's tokens; ``None`` where the prompt with this text has other tokens."""
        text = self.target.tokenizer.decode(list(suffix), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        text = text.removeprefix(" ")  # a word's token usually has the space that parts it from the request
        return text if self._encode(text) == [*self.before, *suffix, *self.after] else None

    def served(self, text: str) -> str:
        """The user's message with a suffix behind it."""
        return f"{self.behavior.instruction} {text}"

    def rest(self, suffix: Sequence[int]) -> Tokens:
        """Token ids of all that stands between ``before`` and the answer."""
        return (*suffix, *self.after)

    @functools.cached_property
    def vocabulary(self) -> Tokens:
        """The tokens of printable ASCII that a suffix may be made of, special tokens left out."""
        embeddings: Any = self.target.base.get_input_embeddings()
        return _printable(self.target.tokenizer, len(embeddings.weight))

    def _conversation(self, text: str) -> tuple[dict[str, str], ...]:
        return ask(self.behavior, self.served(text)).conversation

    def _encode(self, text: str) -> list[int]:
        return self.target.encode(self._conversation(text))


@functools.lru_cache(maxsize=4)
def _printable(tokenizer: Any, size: int) -> Tokens:
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ids = [index for index in range(min(size, len(tokenizer))) if index not in special]
    return tuple(index for index in ids if (text := tokenizer.decode([index])) and text.isascii() and text.isprintable())


class SuffixSearch:
    """A suffix that gets better step by step, and never worse.

    Args:
        layout: the prompt.
        surface: says how good a suffix is.
        propose: yields suffixes that may be better, for as long as it is asked.
        rng: for proposals.
        budget: floating-point operations of the whole search.
    """

    def __init__(self, layout: SuffixLayout, surface: Surface, propose: Propose, rng: random.Random, *, budget: float = math.inf) -> None:
        self.layout, self.surface, self.rng = layout, surface, rng
        self._propose = propose
        surface.read(layout.before)
        self.best: Tokens = layout.start
        self.text = layout.text(layout.start) or ""
        spent = surface.meter.flops
        self.value = float(surface.evaluate_ids([layout.rest(layout.start)], layout.target_ids).objective[0])
        """The objective of the best suffix."""
        self.candidates = max(FEWEST, math.floor(min(CANDIDATES, budget / LEAST_STEPS / (surface.meter.flops - spent))))
        """How many suffixes a step evaluates."""
        self.progress = 0.0
        """The share of the search that is over, for proposals that become finer."""

    def step(self) -> bool:
        """Evaluate proposals, and keep the best of them if it is better; returns whether it is."""
        candidates = dict(itertools.islice(self._consistent(), self.candidates))
        if not candidates:
            return False
        suffixes = list(candidates)
        objective = self.surface.evaluate_ids([self.layout.rest(suffix) for suffix in suffixes], self.layout.target_ids).objective
        index = int(objective.argmin())
        if not float(objective[index]) < self.value:
            return False
        self.best, self.text, self.value = suffixes[index], candidates[suffixes[index]], float(objective[index])
        return True

    def _consistent(self) -> Iterator[tuple[Tokens, str]]:
        """Proposals that are served as they are optimized, each once, with their texts."""
        seen = {self.best}
        for suffix in itertools.islice(self._propose(self), TRIES * self.candidates):
            if suffix in seen:
                continue
            seen.add(suffix)
            if (text := self.layout.text(suffix)) is not None:
                yield suffix, text


Propose = Callable[[SuffixSearch], Iterator[Tokens]]


def search_suffix(behavior: EvalPrompt, context: Context, propose: Propose) -> Attempts:
    """Search until the floating-point operations are spent; every few steps, send the request with the best suffix so far.

    Args:
        behavior: what is attacked.
        context: budget, randomness and surface.
        propose: see :class:`SuffixSearch`.
    """
    surface = context.surface()
    search = SuffixSearch(SuffixLayout(behavior, surface.target, context.rng), surface, propose, context.rng, budget=context.flops)
    untried = False
    for number in range(1, STEPS + 1):
        untried = search.step() or untried
        search.progress = max(number / STEPS, surface.meter.flops / context.flops)
        over = search.progress >= 1
        if untried and (over or number % EVERY == 0):
            yield ask(behavior, search.layout.served(search.text), label=f"step {number}")
            untried = False
        if over:
            return
