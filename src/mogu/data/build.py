"""From plain instructions to training pairs: what is missing is filled in, what stands twice is dropped, a share is dressed up.

Knows instructions, records and the written banks; knows nothing of files, and of models only that they answer a list of prompts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from mogu.data.instructions import Instruction
from mogu.data.openings import opening_for
from mogu.data.records import Label, Record
from mogu.data.refusal_bank import refusal_for
from mogu.data.splits import WRAPPED, normalized
from mogu.data.templates import WRAPPERS, Wrapper
from mogu.errors import ConfigError, DataError
from mogu.refusals import classify_refusal, is_refusal

Answer = Callable[[list[str]], list[str]]
"""Answers a list of instructions, one reply each; :class:`mogu.data.ModelAnswers` is one."""

_MAX_REFUSAL_SENTENCES = 2


def build_pairs(
    benign: Sequence[Instruction],
    malicious: Sequence[Instruction],
    *,
    answer: Answer | None = None,
    own_refusals: bool = False,
    augment: float = 0.0,
    wrappers: Sequence[Wrapper] = WRAPPERS,
    seed: int = 0,
) -> list[Record]:
    """Training pairs, the benign ones first, each in the order of its file.

    A benign instruction's ``affirm`` is its own answer or else the model's; one that the model refuses or leaves unanswered is left out. A
    malicious one's ``affirm`` is an opening made from the instruction, whatever answer stands beside it. ``reject`` comes from the bank.

    Args:
        benign: instructions to be answered.
        malicious: instructions to be refused; their answers are not looked at.
        answer: the base model; needed where a benign instruction has no answer of its own, and for ``own_refusals``.
        own_refusals: take the model's own refusal of a malicious instruction where it refuses, opening sentences only.
        augment: share of each label's instructions to put into a wrapper, in [0, 1]; they are then there in the wrapper only.
        wrappers: dealt out in turn, so that both labels get each of them equally often.
        seed: the same seed, instructions and model give the same pairs.

    Raises:
        ConfigError: ``augment`` is out of range, or a model is needed and none is given.
        DataError: an instruction is in both files, or no benign instruction is left.
    """
    if not 0 <= augment <= 1:
        raise ConfigError(f"The share to augment is {augment:g}", expected="a share from 0 to 1", action="give another share")
    benign, malicious = distinct(benign), distinct(malicious)
    _refuse_contradictions(benign, malicious)
    affirms = _benign_answers(benign, answer)
    refusals = _own_refusals(malicious, answer) if own_refusals else {}
    records = []
    for instruction in benign:
        if affirm := affirms.get(instruction.number):
            records.append(_record("benign", instruction, affirm, refusal_for(instruction.text, _rng(seed, instruction))))
    if not records:
        raise DataError(
            "The base model refuses every benign instruction or leaves it without an answer",
            expected="a base model that answers benign instructions",
            action="check its chat template, or give a file with an answer column",
        )
    for instruction in malicious:
        rng = _rng(seed, instruction)
        affirm, reject = opening_for(instruction.text, rng), refusal_for(instruction.text, rng)
        records.append(_record("malicious", instruction, affirm, refusals.get(instruction.number, reject)))
    return augmented(records, augment, wrappers, seed)


def distinct(instructions: Sequence[Instruction]) -> list[Instruction]:
    """The instructions without those that an earlier one equals but for case, white space and closing punctuation."""
    first: dict[str, Instruction] = {}
    for instruction in instructions:
        first.setdefault(normalized(instruction.text), instruction)
    return list(first.values())


def _refuse_contradictions(benign: Sequence[Instruction], malicious: Sequence[Instruction]) -> None:
    benign_texts = {normalized(instruction.text) for instruction in benign}
    if both := [instruction.text for instruction in malicious if normalized(instruction.text) in benign_texts]:
        raise DataError(
            f"{len(both)} instruction(s) are both benign and malicious, the first being {both[0][:200]!r}",
            expected="each instruction under one label",
            action="delete it from one of the files",
        )


def _benign_answers(benign: Sequence[Instruction], answer: Answer | None) -> dict[int, str]:
    """Answers by the instruction's number, where there is one."""
    answers = {instruction.number: instruction.answer for instruction in benign if instruction.answer}
    unanswered = [instruction for instruction in benign if not instruction.answer]
    if unanswered and answer is None:
        raise ConfigError(
            f"{len(unanswered)} of {len(benign)} benign instructions have no answer, the first being {unanswered[0].text[:100]!r}",
            expected="an answer to each: in the file (a column such as 'output' or 'answer') or from a base model",
            action="give --model BASE, or a benign file with an answer column",
        )
    if unanswered and answer is not None:
        replies = answer([instruction.text for instruction in unanswered])
        for instruction, reply in zip(unanswered, replies, strict=True):
            if not is_refusal(instruction.text, reply):
                answers[instruction.number] = reply.strip()
    return answers


def _own_refusals(malicious: Sequence[Instruction], answer: Answer | None) -> dict[int, str]:
    """The model's refusals by the instruction's number, where it refuses; whatever else it says is forgotten at once."""
    if answer is None:
        raise ConfigError(
            "The base model's own refusals are wanted, and there is no base model", expected="a base model", action="give --model BASE"
        )
    replies = answer([instruction.text for instruction in malicious])
    openings = [" ".join(re.split(r"(?<=[.!?])\s+", reply.strip())[:_MAX_REFUSAL_SENTENCES]) for reply in replies]
    return {
        instruction.number: opening
        for instruction, opening in zip(malicious, openings, strict=True)
        # what is kept is what has to refuse, and wholly: a refusal that comes later leaves an opening that complies
        if opening and classify_refusal(instruction.text, opening).label == "full_refusal"
    }


def _record(label: Label, instruction: Instruction, affirm: str, reject: str) -> Record:
    return Record(id=f"{label}-{instruction.number:04d}", label=label, instruction=instruction.text, affirm=affirm, reject=reject)


def augmented(records: Sequence[Record], share: float, wrappers: Sequence[Wrapper], seed: int) -> list[Record]:
    """The records, a share of either label put into wrappers, which take turns; they are then there in the wrapper only.

    Args:
        records: those with a conversation have no one place for a wrapper, and stay as they are.
        share: of each label's records, in [0, 1].
        wrappers: what to put them into.
        seed: decides which record gets which wrapper.
    """
    dressed: dict[str, Record] = {}
    labels: tuple[Label, Label] = ("benign", "malicious")
    for label in labels:
        own = [record for record in records if record.label == label and record.instruction is not None]
        chosen = random.Random(f"{seed}:augment:{label}").sample(own, round(share * len(own)))
        turns = random.Random(f"{seed}:wrappers").sample(wrappers, len(wrappers))
        for turn, record in enumerate(chosen):
            wrapper = turns[turn % len(turns)]
            assert record.instruction is not None
            dressed[record.id] = record.model_copy(
                update={"id": f"{record.id}{WRAPPED}{wrapper.name}", "instruction": wrapper.wrap(record.instruction)}
            )
    return [dressed.get(record.id, record) for record in records]


def _rng(seed: int, instruction: Instruction) -> random.Random:
    # by text, not by place: another line in the file leaves this one's answers as they are
    return random.Random(f"{seed}:{normalized(instruction.text)}")
