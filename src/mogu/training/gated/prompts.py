"""What a gate is fitted to: labeled prompts of all kinds, as they are, once more in another form, and beside another request.

Knows records and the starter set; knows nothing of models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mogu.data import KINDS, Kind, Record, conversation_of, opened
from mogu.data.joins import joined
from mogu.data.noise import varied
from mogu.data.starter import GATE_DEV_WRAPPERS, GATE_TRAIN_WRAPPERS, STARTER, starter_instructions
from mogu.data.templates import GATE_WRAPPERS, WRAPPERS, PromptTemplate
from mogu.inference.prompts import Conversation, WithTools
from mogu.training.recipe import Recipe

_SHARE_VARIED = 0.5
_SHARES_JOINED = {"malicious": 0.6, "borderline": 0.25, "benign": 0.5}
Form = Literal["plain", "varied", "joined"]
"""A prompt is an instruction as it is; in a wrapper, garbled, or with a meaningless tail; or beside another request."""

_SEED = 0  # one set of prompts, whatever the seed of a run


@dataclass(frozen=True)
class GatePrompt:
    """One labeled prompt.

    Args:
        prompt: the conversation.
        kind: what it is.
        form: of the instruction.
    """

    prompt: Conversation | WithTools
    kind: Kind
    form: Form = "plain"

    @property
    def malicious(self) -> bool:
        """Its label."""
        return self.kind == "malicious"


def gate_prompts(recipe: Recipe, records: Sequence[Record], split: Literal["train", "dev"]) -> list[GatePrompt]:
    """The prompts of a split.

    Of the starter set these are all its instructions, which are many more than its records: a gate needs no answers. Every malicious
    instruction comes in another form as well; of the others all do on dev, and half in training. That is a fifth less to read, and
    those who have something to hide are readier to wrap it. In training, part of them come again beside a benign request, which
    makes none of them harmless.

    Args:
        recipe: says whether the split is the starter set's.
        records: the split's records otherwise.
        split: the split.
    """
    system = recipe.model.system_prompt
    source = recipe.data.train if split == "train" or recipe.data.dev is None else recipe.data.dev
    if source == STARTER:
        wrappers = GATE_TRAIN_WRAPPERS if split == "train" else GATE_DEV_WRAPPERS
        texts = [(instruction.text, kind) for kind in KINDS for instruction in starter_instructions(kind, split)]
        return [_prompt(text, kind, system) for text, kind in texts] + _other_forms(texts, wrappers, system, split)
    whole = [GatePrompt(conversation_of(record, system), record.kind) for record in records]
    # What is in a wrapper already has its second form in the records.
    bare = [(record.instruction, record.kind) for record in records if record.instruction is not None and record.wrapper is None]
    return whole + _other_forms(bare, WRAPPERS + GATE_WRAPPERS, system, split)


def _other_forms(
    texts: Sequence[tuple[str, Kind]], wrappers: Sequence[PromptTemplate], system: str | None, split: Literal["train", "dev"]
) -> list[GatePrompt]:
    found = _varied(texts, wrappers, system, split)
    return found + _joined(texts, system) if split == "train" else found


def _varied(
    texts: Sequence[tuple[str, Kind]], wrappers: Sequence[PromptTemplate], system: str | None, split: Literal["train", "dev"]
) -> list[GatePrompt]:
    found = []
    for text, kind in texts:
        rng = random.Random(f"{_SEED}:{text}")
        changed = varied(text, wrappers, rng)
        if kind == "malicious" or split == "dev" or rng.random() < _SHARE_VARIED:
            found.append(_prompt(changed, kind, system, "varied"))
    return found


def _joined(texts: Sequence[tuple[str, Kind]], system: str | None) -> list[GatePrompt]:
    others = [text for text, kind in texts if kind == "benign"]
    found = []
    for text, kind in texts:
        rng = random.Random(f"{_SEED}:joined:{text}")
        if rng.random() < _SHARES_JOINED[kind] and others:
            found.append(_prompt(joined(text, others, rng), kind, system, "joined"))
    return found


def _prompt(text: str, kind: Kind, system: str | None, form: Form = "plain") -> GatePrompt:
    return GatePrompt(opened([{"role": "user", "content": text}], system), kind, form)
