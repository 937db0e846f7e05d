"""The instructions of the starter set and the split of each, by its topic.

Knows the three files beside it; knows nothing of answers, records or models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mogu.data.records import KINDS, Kind
from mogu.data.rows import TableRow, jsonl_rows
from mogu.data.splits import Split
from mogu.files.text_files import write_line_files

SPLITS: tuple[Split, ...] = ("train", "dev", "test")

HELD_OUT: Mapping[str, Split] = {
    # Of malicious and borderline instructions. No other topic of extortion or trafficking is trained on.
    "blackmail": "dev",
    "car-theft": "dev",
    "charity-fraud": "dev",
    "deepfakes": "dev",
    "discrimination": "dev",
    "drink-spiking": "dev",
    "harassment": "dev",
    "hazing": "dev",
    "hidden-cameras": "dev",
    "mass-surveillance": "dev",
    "poisoning": "dev",
    "racism": "dev",
    "shoplifting": "dev",
    "terror-recruiting": "dev",
    "vote-buying": "dev",
    "website-attacks": "dev",
    "arson": "test",
    "doxxing": "test",
    "drug-smuggling": "test",
    "human-trafficking": "test",
    "investment-scams": "test",
    # Of malicious and borderline instructions that come without pairs.
    "famous-assassinations": "dev",
    "health-advice-in-general": "dev",
    "party-and-fireworks": "dev",
    "public-figures-and-their-work": "dev",
    "shows-and-stage": "dev",
    # Of borderline instructions alone.
    "body-and-health": "dev",
    "hunting-and-fishing": "dev",
    "police-and-courts": "dev",
    "war-and-atrocities": "dev",
    "grief-and-death": "test",
    "pranks-and-games": "test",
    # Of benign instructions.
    "accounting": "dev",
    "economics": "dev",
    "essays": "dev",
    "gardening": "dev",
    "geology": "dev",
    "jokes": "dev",
    "letters-and-emails": "dev",
    "parenting": "dev",
    "role-scenarios": "dev",
    "shell-and-git": "dev",
    "song-lyrics": "dev",
    "summarizing": "dev",
    "vocabulary": "dev",
    "web-pages": "dev",
    "weddings": "dev",
    "astronomy": "test",
    "home-repair": "test",
    "oceans": "test",
    "spreadsheets": "test",
    "translation": "test",
    "travel": "test",
}
"""The topics that are not trained on. A split by instruction would leave near-copies of every dev and test instruction in training."""


@dataclass(frozen=True)
class StarterInstruction:
    """One instruction of the starter set.

    Args:
        id: unique in the set.
        kind: what it is.
        category: what its topic belongs to, such as ``"fraud"``.
        topic: such as ``"phishing"``; a topic is in one split.
        text: the instruction, one line.
        pair: of a borderline instruction, the id of the malicious one that it resembles, if it resembles one; both have one topic.
        likeness: of a borderline instruction, what makes it harmless: ``"homonym"``, ``"figurative"``, ``"fiction"``, ``"history"``,
            ``"safety"`` or ``"definition"``; or ``"permitted"``, if it resembles nothing malicious, but what models decline: questions
            about people, opinions, copyright, advice.
    """

    id: str
    kind: Kind
    category: str
    topic: str
    text: str
    pair: str | None = None
    likeness: str | None = None

    def row(self) -> dict[str, str | None]:
        """The instruction as a row of a list, which `mogu data build` and `mogu compare` read."""
        row = {"id": self.id, "category": self.category, "topic": self.topic, "instruction": self.text}
        return {**row, "pair": self.pair, "kind": self.likeness} if self.kind == "borderline" else {**row}


def split_of(topic: str) -> Split:
    """Return the split of a topic."""
    return HELD_OUT.get(topic, "train")


def starter_instructions(kind: Kind, split: Split) -> list[StarterInstruction]:
    """Return the instructions of a kind in a split, topic by topic."""
    return [instruction for instruction in _instructions(kind) if split_of(instruction.topic) == split]


def write_starter(folder: Path) -> dict[Path, list[StarterInstruction]]:
    """Write ``SPLIT/KIND.jsonl`` for every split and kind, all files or none; return what is in each.

    Raises:
        MoguError: the disk is full or the folder is not writable; existing files are then unchanged.
    """
    files = {target: starter_instructions(kind, split) for (split, kind), target in starter_files(folder).items()}
    write_line_files(
        {target: [json.dumps(instruction.row(), ensure_ascii=False) for instruction in found] for target, found in files.items()}
    )
    return files


def starter_files(folder: Path) -> dict[tuple[Split, Kind], Path]:
    """Return the files that :func:`write_starter` writes, by split and kind."""
    return {(split, kind): folder / split / f"{kind}.jsonl" for split in SPLITS for kind in KINDS}


@cache
def _instructions(kind: Kind) -> tuple[StarterInstruction, ...]:
    return tuple(_instruction(kind, row) for row in jsonl_rows(Path(__file__).parent / f"{kind}.jsonl"))


def _instruction(kind: Kind, row: TableRow) -> StarterInstruction:
    fields = {name: None if value is None else str(value) for name, value in row.fields.items()}
    return StarterInstruction(
        id=str(fields["id"]),
        kind=kind,
        category=str(fields["category"]),
        topic=str(fields["topic"]),
        text=str(fields["text"]),
        pair=fields.get("pair"),
        likeness=fields.get("kind"),
    )
