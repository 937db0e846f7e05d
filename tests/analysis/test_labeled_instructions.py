"""Instructions are read with the labels that their file has, if any."""

from __future__ import annotations

from pathlib import Path

import pytest

from mogu.analysis.labeled_instructions import LabeledInstruction, read_labeled_instructions
from mogu.data import Record, write_records
from mogu.errors import DataError


def test_lists_with_and_without_labels(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One\n\nTwo\n")
    assert read_labeled_instructions(tmp_path / "a.txt") == [
        LabeledInstruction.plain("1", "unlabeled", "One"),
        LabeledInstruction.plain("2", "unlabeled", "Two"),
    ]
    (tmp_path / "a.csv").write_text("goal,label\nOne,benign\n")
    assert read_labeled_instructions(tmp_path / "a.csv") == [LabeledInstruction.plain("1", "benign", "One")]
    (tmp_path / "a.jsonl").write_text('{"prompt": "One", "category": "x"}\n\n{"prompt": "Two"}\n')
    assert read_labeled_instructions(tmp_path / "a.jsonl") == [
        LabeledInstruction.plain("1", "x", "One"),
        LabeledInstruction.plain("2", "unlabeled", "Two"),
    ]
    (tmp_path / "b.csv").write_text("said,label\nOne,benign\n")
    with pytest.raises(DataError, match="none of the usual columns"):
        read_labeled_instructions(tmp_path / "b.csv")
    assert read_labeled_instructions(tmp_path / "b.csv", "said") == [LabeledInstruction.plain("1", "benign", "One")]


def test_records_may_be_of_one_label_but_not_broken(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    turns = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Why?"})
    records = [
        Record(id="a", label="malicious", instruction="One", affirm="Sure", reject="No"),
        Record(id="b", label="malicious", messages=turns, affirm="Sure", reject="No"),  # type: ignore[arg-type]
    ]
    write_records(file, records)
    assert read_labeled_instructions(file) == [
        LabeledInstruction.plain("a", "malicious", "One"),
        LabeledInstruction("b", "malicious", turns),
    ]
    assert read_labeled_instructions(file)[1].instruction == "Why?"
    file.write_text(file.read_text() + '{"id": "c"}\n{"id": "d"}\n')
    with pytest.raises(DataError, match=r"line 3, field 'label': is missing.*more\)"):
        read_labeled_instructions(file)
