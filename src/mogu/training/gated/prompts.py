"""What a gate is fitted to: labeled prompts of all kinds, each as it is and once more in another form.

Knows records and the starter set; knows nothing of models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mogu.data import KINDS, Kind, Record, conversation_of, opened
from mogu.data.noise import varied
from mogu.data.starter import GATE_DEV_WRAPPERS, GATE_TRAIN_WRAPPERS, STARTER, starter_instructions
from mogu.data.templates import GATE_WRAPPERS, WRAPPERS, PromptTemplate
from mogu.inference.prompts import Conversation, WithTools
from mogu.training.recipe import Recipe

_SEED = 0  # one set of prompts, whatever the seed of a run


@dataclass(frozen=True)
class GatePrompt:
    """One labeled prompt.

    Args:
        prompt: the conversation.
        kind: what it is.
    """

    prompt: Conversation | WithTools
    kind: Kind

    @property
    def malicious(self) -> bool:
        """Its label."""
        return self.kind == "malicious"


def gate_prompts(recipe: Recipe, records: Sequence[Record], split: Literal["train", "dev"]) -> list[GatePrompt]:
    """The prompts of a split.

    Of the starter set these are all its instructions, which are many more than its records: a gate needs no answers.

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
        return _both_forms(texts, wrappers, system)
    whole = [GatePrompt(conversation_of(record, system), record.kind) for record in records]
    # What is in a wrapper already has its second form in the records.
    bare = [(record.instruction, record.kind) for record in records if record.instruction is not None and record.wrapper is None]
    return whole + _both_forms(bare, WRAPPERS + GATE_WRAPPERS, system)[len(bare) :]


def _both_forms(texts: Sequence[tuple[str, Kind]], wrappers: Sequence[PromptTemplate], system: str | None) -> list[GatePrompt]:
    changed = [(varied(text, wrappers, random.Random(f"{_SEED}:{text}")), kind) for text, kind in texts]
    return [GatePrompt(opened([{"role": "user", "content": text}], system), kind) for text, kind in (*texts, *changed)]
