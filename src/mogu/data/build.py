"""From plain instructions to training pairs: fill in what is missing, drop duplicates, put a share of the instructions into wrappers.

Knows instructions, records and the written banks; knows nothing of files, and of models only that they answer a list of prompts.
"""

from __future__ import annotations

import itertools
import random
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence

from mogu.data.instructions import Instruction
from mogu.data.openings import opening_for
from mogu.data.records import KINDS, Kind, Record
from mogu.data.refusal_bank import REFUSALS, refusal_for
from mogu.data.splits import normalized
from mogu.data.templates import WRAPPERS, PromptTemplate
from mogu.data.text_digests import first_equals, text_digests
from mogu.errors import ConfigError, DataError
from mogu.files.disk_list import DiskList, pick
from mogu.refusals import classify_refusal, is_refusal

Answerer = Callable[[list[str]], list[str]]
"""Answers a list of instructions with one reply each, such as :class:`mogu.data.ModelAnswers`."""

_MAX_REFUSAL_SENTENCES = 2


def build_pairs(
    benign: Sequence[Instruction],
    malicious: Sequence[Instruction],
    *,
    borderline: Sequence[Instruction] = (),
    answer: Answerer | None = None,
    refusals: Sequence[str] = REFUSALS,
    own_refusals: bool = False,
    augment: float = 0.0,
    wrappers: Sequence[PromptTemplate] = WRAPPERS,
    seed: int = 0,
) -> Sequence[Record]:
    """Build training pairs, the benign ones first, then borderline and malicious ones, each kind in the order of its file; on the disk.

    The ``affirm`` of a benign instruction is its own answer or else the model's; an instruction whose answer refuses, or that the model
    leaves unanswered, is left out. The ``affirm`` of a malicious instruction is an opening made from its words, whatever answer the file
    has for it.

    Args:
        benign: instructions to answer.
        malicious: instructions to refuse; their answers are ignored.
        borderline: instructions that look malicious and are not; they are answered as benign ones are.
        answer: the base model; needed for benign instructions without an answer, and for ``own_refusals``.
        refusals: what ``reject`` is taken from, see :func:`refusal_for`; by default the bank.
        own_refusals: where the model refuses a malicious instruction, use the opening sentences of its refusal as ``reject``.
        augment: share of each kind's instructions to put into a wrapper, in [0, 1]; they then occur in the wrapper only.
        wrappers: used in turn, so that all kinds get each of them equally often.
        seed: the same seed, instructions and model give the same pairs.

    Raises:
        ConfigError: ``augment`` is out of range, or a model is needed and none is given.
        DataError: an instruction is in two files, or no benign instruction is left.
    """
    if not 0 <= augment <= 1:
        raise ConfigError(f"The share to augment is {augment:g}", expected="a share from 0 to 1", action="give another share")
    benign, borderline, malicious = distinct(benign), distinct(borderline), distinct(malicious)
    _refuse_contradictions({"benign": benign, "borderline": borderline, "malicious": malicious})

    def built() -> Iterator[Record]:
        first = next(answered := _answered("benign", benign, answer, refusals, seed), None)
        if first is None:
            raise DataError(
                "Every benign instruction is refused or left without an answer",
                expected="answers to benign instructions, in the file or by the base model",
                action="check the base model's chat template, or give a file with an answer column",
            )
        yield first
        yield from answered
        yield from _answered("borderline", borderline, answer, refusals, seed)
        own = _own_refusals(malicious, answer) if own_refusals else {}
        for instruction in malicious:
            rng = _rng(seed, instruction)
            affirm, reject = opening_for(instruction.text, rng), refusal_for(instruction.text, rng, refusals)
            yield _record("malicious", instruction, affirm, own.get(instruction.number, reject))

    return augmented(DiskList(built()), augment, wrappers, seed)


def distinct(instructions: Sequence[Instruction]) -> Sequence[Instruction]:
    """Drop instructions that equal an earlier one except for case, white space and closing punctuation."""
    return pick(instructions, (index for index, first in enumerate(first_equals(_digests(instructions))) if index == first))


def _digests(instructions: Sequence[Instruction]) -> array[int]:
    return text_digests(normalized(instruction.text) for instruction in instructions)


def _refuse_contradictions(instructions: Mapping[Kind, Sequence[Instruction]]) -> None:
    import numpy as np

    digests = {kind: np.asarray(_digests(of_kind)) for kind, of_kind in instructions.items()}
    for one, other in itertools.combinations(instructions, 2):
        both = np.flatnonzero(np.isin(digests[other], digests[one]))
        if len(both):
            text = instructions[other][both[0]].text
            raise DataError(
                f"{len(both)} instruction(s) are both {one} and {other}, the first being {text[:200]!r}",
                expected="each instruction of one kind",
                action="delete it from one of the files",
            )


def _answered(
    kind: Kind, instructions: Sequence[Instruction], answer: Answerer | None, refusals: Sequence[str], seed: int
) -> Iterator[Record]:
    """Yield a record for each benign or borderline instruction with an answer; one that refuses is none, wherever it comes from."""
    unanswered = [instruction.text for instruction in instructions if not instruction.answer]
    if unanswered and answer is None:
        raise ConfigError(
            f"{len(unanswered)} of {len(instructions)} {kind} instructions have no answer, the first being {unanswered[0][:100]!r}",
            expected="an answer to each: in the file (a column such as 'output' or 'answer') or from a base model",
            action=f"give --model BASE, or a {kind} file with an answer column",
        )
    replies = iter(answer(unanswered) if unanswered and answer is not None else ())
    for instruction in instructions:
        affirm = instruction.answer or next(replies).strip()
        if affirm and not is_refusal(instruction.text, affirm):
            yield _record(kind, instruction, affirm, refusal_for(instruction.text, _rng(seed, instruction), refusals))


def _own_refusals(malicious: Sequence[Instruction], answer: Answerer | None) -> dict[int, str]:
    """Return the model's refusals by the instruction's number; anything else it says is dropped here."""
    if answer is None:
        raise ConfigError(
            "The base model's own refusals were asked for without a base model", expected="a base model", action="give --model BASE"
        )
    replies = answer([instruction.text for instruction in malicious])
    openings = [" ".join(re.split(r"(?<=[.!?])\s+", reply.strip())[:_MAX_REFUSAL_SENTENCES]) for reply in replies]
    return {
        instruction.number: opening
        for instruction, opening in zip(malicious, openings, strict=True)
        # The part that is kept must itself be a full refusal: a reply that refuses only later has an opening that complies.
        if opening and classify_refusal(instruction.text, opening).label == "full_refusal"
    }


def _record(kind: Kind, instruction: Instruction, affirm: str, reject: str) -> Record:
    return Record(
        id=f"{kind}-{instruction.number:04d}",
        label="malicious" if kind == "malicious" else "benign",
        instruction=instruction.text,
        affirm=affirm,
        reject=reject,
        borderline=kind == "borderline",
    )


def augmented(records: Sequence[Record], share: float, wrappers: Sequence[PromptTemplate], seed: int) -> Sequence[Record]:
    """Put a share of each kind's records into wrappers, used in turn; those records then occur in the wrapper only.

    Args:
        records: those with a conversation have no single place for a wrapper and stay as they are.
        share: of each kind's records, in [0, 1].
        wrappers: the templates to choose from.
        seed: decides which record gets which wrapper.
    """
    if not share:
        return records
    candidates: dict[Kind, array[int]] = {kind: array("Q") for kind in KINDS}
    for index, record in enumerate(records):
        if record.instruction is not None:
            candidates[record.kind].append(index)
    wrapper_of = array("h", [-1]) * len(records)
    order = random.Random(f"{seed}:wrappers").sample(range(len(wrappers)), len(wrappers))
    for kind, of_kind in candidates.items():
        chosen = random.Random(f"{seed}:augment:{kind}").sample(of_kind, round(share * len(of_kind)))
        for number, index in enumerate(chosen):
            wrapper_of[index] = order[number % len(order)]
    return DiskList(
        record if wrapper < 0 else record.wrapped_in(wrappers[wrapper]) for record, wrapper in zip(records, wrapper_of, strict=True)
    )


def _rng(seed: int, instruction: Instruction) -> random.Random:
    # Seeded by the text, not by its number: a new line in the file leaves the answers to the other lines unchanged.
    return random.Random(f"{seed}:{normalized(instruction.text)}")
