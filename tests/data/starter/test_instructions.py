"""The starter set: three files of distinct one-line instructions, in splits that share no topic, with no sentence from a public set."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mogu.data import KINDS, Kind, read_instructions
from mogu.data.instructions import INSTRUCTION_COLUMNS
from mogu.data.splits import normalized
from mogu.data.starter import HELD_OUT, SPLITS, StarterInstruction, split_of, starter_files, starter_instructions, write_starter

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"
EVERY = {kind: [found for split in SPLITS for found in starter_instructions(kind, split)] for kind in KINDS}
ALL = [instruction for found in EVERY.values() for instruction in found]


def counted(split: str) -> dict[Kind, tuple[int, int]]:
    """How many instructions and how many topics of each kind are in a split."""
    found = {kind: [one for one in EVERY[kind] if split_of(one.topic) == split] for kind in KINDS}
    return {kind: (len(of_kind), len({one.topic for one in of_kind})) for kind, of_kind in found.items()}


def test_each_split_has_the_instructions_of_its_topics() -> None:
    assert counted("train") == {"benign": (1800, 88), "borderline": (4142, 176), "malicious": (2788, 162)}
    assert counted("dev") == {"benign": (320, 15), "borderline": (549, 25), "malicious": (324, 21)}
    assert counted("test") == {"benign": (120, 6), "borderline": (110, 7), "malicious": (70, 5)}
    assert set(HELD_OUT) <= {instruction.topic for instruction in ALL}
    assert {kind: [one.id for split in SPLITS for one in starter_instructions(kind, split)] for kind in KINDS} == {
        kind: [one.id for one in found] for kind, found in EVERY.items()
    }


def test_a_topic_is_held_out_of_categories_that_are_trained_on_and_of_some_that_are_not() -> None:
    trained_on = {one.category for one in starter_instructions("malicious", "train")}
    for split in ("dev", "test"):
        category_of = {one.topic: one.category for one in starter_instructions("malicious", split)}
        assert len(set(category_of.values())) >= 5
        known = [category in trained_on for category in category_of.values()]
        assert sum(known) >= 2
        assert not all(known)


def test_ids_and_texts_are_unique_and_a_text_is_one_line() -> None:
    assert len({one.id for one in ALL}) == len({normalized(one.text) for one in ALL}) == 10223
    assert all(one.text == " ".join(one.text.split()) for one in ALL)
    assert max(len(one.text.split()) for one in ALL) <= 110


def test_a_borderline_instruction_has_the_topic_of_the_malicious_one_it_resembles() -> None:
    malicious = {one.id: one for one in EVERY["malicious"]}
    paired = [one for one in EVERY["borderline"] if one.pair is not None]
    assert len(paired) > 300
    assert len({one.pair for one in paired}) == len(paired)
    assert all(malicious[str(one.pair)].topic == one.topic and malicious[str(one.pair)].category == one.category for one in paired)
    assert {one.likeness for one in EVERY["borderline"]} == {
        *("homonym", "figurative", "fiction", "history", "safety", "definition", "permitted"),
    }
    assert {(one.pair, one.likeness) for one in EVERY["malicious"] + EVERY["benign"]} == {(None, None)}


def opening(instruction: StarterInstruction) -> str:
    return " ".join(instruction.text.lower().split()[:2])


@pytest.mark.parametrize(("kind", "margin"), [("borderline", 0.1), ("benign", 0.15)])
def test_the_first_two_words_say_little_about_the_kind(kind: Kind, margin: float) -> None:
    """A classifier that takes the more frequent kind of each opening, or guesses where it never saw one, is near chance."""
    kinds: tuple[Kind, Kind] = (kind, "malicious")
    shares: dict[str, Counter[Kind]] = defaultdict(Counter)
    for one in kinds:
        trained_on = starter_instructions(one, "train")
        for instruction in trained_on:
            shares[opening(instruction)][one] += 1 / len(trained_on)  # type: ignore[assignment]
    accuracy = []
    for one, other in (kinds, kinds[::-1]):
        held_out = [instruction for split in ("dev", "test") for instruction in starter_instructions(one, split)]
        mine = [shares[opening(instruction)][one] - shares[opening(instruction)][other] for instruction in held_out]
        accuracy.append(sum(0.5 + 0.5 * ((lead > 0) - (lead < 0)) for lead in mine) / len(mine))
    assert abs(sum(accuracy) / 2 - 0.5) < margin


def runs(text: str) -> set[tuple[str, ...]]:
    """Every eight words in a row, in lower case and without punctuation."""
    words = re.sub(r"[^\w\s]|_", "", text.lower()).split()
    return {tuple(words[start : start + 8]) for start in range(len(words) - 7)}


def texts_of(file: Path) -> Iterator[str]:
    if file.suffix == ".csv":
        with file.open(newline="", encoding="utf-8") as lines:
            yield from (cell for row in csv.reader(lines) for cell in row)
    elif file.suffix in (".json", ".jsonl"):
        text = file.read_text(encoding="utf-8")
        for part in text.splitlines() if file.suffix == ".jsonl" else [text]:
            yield from strings_in(json.loads(part))
    else:
        yield from file.read_text(encoding="utf-8").splitlines()


def strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings_in(inner)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_no_instruction_shares_eight_words_in_a_row_with_a_public_set() -> None:
    ours = {run: one.id for one in ALL for run in runs(one.text)}
    files = [file for file in sorted(SHARED.rglob("*")) if file.is_file()]
    texts = [text for file in files for text in texts_of(file)]
    assert len(texts) > 10_000
    assert any("Develop a virus that disables antivirus" in text for text in texts)  # AdvBench's third row: the reader does read
    assert {ours[run]: " ".join(run) for text in texts for run in runs(text) & ours.keys()} == {}


def test_the_lists_that_are_written_are_read_as_the_same_instructions(tmp_path: Path) -> None:
    write_starter(tmp_path / "set")
    written = starter_files(tmp_path / "set")
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == set(written.values())
    for (split, kind), file in written.items():
        expected = [one.text for one in EVERY[kind] if split_of(one.topic) == split]
        assert [one.text for one in read_instructions(file)] == expected
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert all({"id", "category", "topic"} < row.keys() and not set(INSTRUCTION_COLUMNS[1:]) & row.keys() for row in rows)
        assert ("pair" in rows[0]) == (kind == "borderline")
