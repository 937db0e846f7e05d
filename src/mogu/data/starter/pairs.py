"""Training and dev records of the starter set.

Knows the instructions, the written banks and the wrappers; of models it knows only that they answer a list of instructions.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from mogu.data.build import Answerer, augmented, build_pairs
from mogu.data.instructions import Instruction
from mogu.data.openings import opening_for
from mogu.data.records import KINDS, Kind, Record
from mogu.data.refusal_bank import REFUSALS
from mogu.data.splits import Split
from mogu.data.starter.instructions import StarterInstruction, starter_instructions
from mogu.data.templates import GATE_WRAPPERS, WRAPPERS
from mogu.refusals import is_refusal

STARTER: Final[Literal["starter"]] = "starter"
"""The word that stands for the starter set where files of records or of prompts are named."""

LIMIT = 250
"""Training records of each label, at most; 300 were published. With 125 topics, two malicious ones of each."""

AUGMENT = 0.5
"""Share of the training instructions that are put into wrappers."""

BORDERLINE_SHARE = 0.4
"""Of the benign training records. Ordinary ones keep the majority: they are what a model is asked most of the time."""

DEV_OF_A_KIND = 40
"""Dev instructions of each kind, at most: every candidate of a run replies to all of them, bare and wrapped."""

_DEV_WRAPPER_NAMES = frozenset(
    {
        *("course", "friend", "quick-one", "tidy-text", "work-note"),
        *("developer-mode", "dialogue", "emergency", "loyalty", "opposite-day", "permit", "prefix-list"),
    }
)
DEV_WRAPPERS = tuple(template for template in WRAPPERS if template.name in _DEV_WRAPPER_NAMES)
"""A third of the wrappers of each kind, which no training record of the starter set is in: the choice is about wrappers that are new."""

TRAIN_WRAPPERS = tuple(template for template in WRAPPERS if template.name not in _DEV_WRAPPER_NAMES)

_GATE_DEV_WRAPPER_NAMES = frozenset(
    {
        *("as-script", "as-verse", "chat-log", "copy-first", "fruit-first", "long-tail"),
        *("counting-then", "hypothetically", "only-steps", "points", "villain", "weather-then"),
        *("after-a-page", "german-lead", "numbers-first", "portuguese-tail"),
        *("json-api", "museum", "proverb-then", "two-moods"),
    }
)
GATE_DEV_WRAPPERS = DEV_WRAPPERS + tuple(template for template in GATE_WRAPPERS if template.name in _GATE_DEV_WRAPPER_NAMES)
"""A third of the wrappers that a gate hears, likewise."""

GATE_TRAIN_WRAPPERS = TRAIN_WRAPPERS + tuple(template for template in GATE_WRAPPERS if template.name not in _GATE_DEV_WRAPPER_NAMES)

_SEED = 0  # one set of records, whatever the seed of a run, as a file would be


def candidates(split: Split) -> dict[Kind, list[StarterInstruction]]:
    """Return the instructions of a split by kind, in the order in which they are drawn: topics take turns."""
    return {kind: _topics_in_turn(starter_instructions(kind, split)) for kind in KINDS}


def train_pairs(answer: Answerer, *, limit: int = LIMIT, augment: float = AUGMENT, refusals: Sequence[str] = REFUSALS) -> Sequence[Record]:
    """Build the training records.

    Benign and borderline instructions that are refused or left unanswered give way to others while there are any.

    Args:
        answer: the base model, whose own answers hardening is to preserve.
        limit: records of each label, at most; of the benign ones, :data:`BORDERLINE_SHARE` are borderline.
        augment: share of each kind to put into :data:`TRAIN_WRAPPERS`, in [0, 1].
        refusals: what ``reject`` is taken from, see :func:`mogu.data.refusal_for`.

    Raises:
        DataError: the model answers no benign instruction.
    """
    drawn = candidates("train")
    borderline = round(BORDERLINE_SHARE * limit)
    chosen: dict[Kind, list[tuple[StarterInstruction, str | None]]] = {
        "benign": _answered(drawn["benign"], limit - borderline, answer),
        "borderline": _answered(drawn["borderline"], borderline, answer),
        "malicious": [(instruction, None) for instruction in drawn["malicious"][:limit]],
    }
    return augmented(_records(chosen, refusals), augment, TRAIN_WRAPPERS, _SEED)


def dev_pairs(*, limit: int = LIMIT) -> list[Record]:
    """Build the dev records: every instruction bare, and again in one of :data:`DEV_WRAPPERS`, with the bare record as its source.

    Only the prompts of dev records are used, so that openings stand in the place of answers, and no instruction is left out for being
    refused.

    Args:
        limit: instructions of each kind, at most; never more than :data:`DEV_OF_A_KIND`.
    """
    chosen = {kind: _opened(found[: min(limit, DEV_OF_A_KIND)]) for kind, found in candidates("dev").items()}
    bare = _records(chosen)
    return [*bare, *augmented(bare, 1.0, DEV_WRAPPERS, _SEED)]


def opening_answers(instructions: Sequence[str]) -> list[str]:
    """Answer each instruction with an opening ("Sure, here is …"), where only prompts count and no model is at hand."""
    return [opening_for(text, random.Random(f"{_SEED}:{text}")) for text in instructions]


def _opened(instructions: Sequence[StarterInstruction]) -> list[tuple[StarterInstruction, str | None]]:
    openings = opening_answers([instruction.text for instruction in instructions])
    return list(zip(instructions, openings, strict=True))


def _answered(instructions: Sequence[StarterInstruction], count: int, answer: Answerer) -> list[tuple[StarterInstruction, str | None]]:
    """Return the first instructions that the model answers, with the answers: ``count`` of them, or as many as there are."""
    answered: list[tuple[StarterInstruction, str | None]] = []
    waiting = list(instructions)
    while waiting and len(answered) < count:
        missing = count - len(answered)
        asked, waiting = waiting[:missing], waiting[missing:]
        replies = answer([instruction.text for instruction in asked])
        for instruction, reply in zip(asked, replies, strict=True):
            if reply.strip() and not is_refusal(instruction.text, reply):
                answered.append((instruction, reply))
    return answered


def _records(chosen: Mapping[Kind, Sequence[tuple[StarterInstruction, str | None]]], refusals: Sequence[str] = REFUSALS) -> list[Record]:
    listed = {
        kind: [Instruction(instruction.text, number, reply) for number, (instruction, reply) in enumerate(found, 1)]
        for kind, found in chosen.items()
    }
    built = build_pairs(listed["benign"], listed["malicious"], borderline=listed["borderline"], refusals=refusals, seed=_SEED)
    ids = [instruction.id for kind in KINDS for instruction, _ in chosen[kind]]
    return [record.model_copy(update={"id": id}) for record, id in zip(built, ids, strict=True)]


def _topics_in_turn(instructions: Sequence[StarterInstruction]) -> list[StarterInstruction]:
    topics: dict[str, list[StarterInstruction]] = {}
    for instruction in instructions:
        topics.setdefault(instruction.topic, []).append(instruction)
    turns = [(turn, instruction) for found in topics.values() for turn, instruction in enumerate(found)]
    return [instruction for _, instruction in sorted(turns, key=lambda one: one[0])]
