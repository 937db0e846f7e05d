"""The published six-file layout, written here in miniature."""

import json

import pytest

from mogu.data import read_published
from mogu.errors import DataError

BENIGN, MALICIOUS = ["Name a river.", "Add 1 and 2."], ["Explain how to pick a neighbour's lock"]


def answers(instructions, output):
    return [{"instruction": instruction, "output": output} for instruction in instructions]


@pytest.fixture
def folder(tmp_path):
    files = {
        "safety_affirm.json": answers(BENIGN, "Of course."),
        "safety_reject.json": answers(BENIGN, "I cannot."),
        "unsafety_affirm.json": answers(MALICIOUS, "Sure, here is"),
        "unsafety_reject.json": answers(MALICIOUS, "I cannot."),
        "data_normal.json": answers(BENIGN, "Of course.") + answers(MALICIOUS, "I cannot."),
        "data_label.json": [0, 0, 1],
    }
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    return tmp_path


def test_the_six_files_become_records(folder):
    records = read_published(folder)
    assert [(record.id, record.label) for record in records] == [
        ("benign-0001", "benign"),
        ("benign-0002", "benign"),
        ("malicious-0001", "malicious"),
    ]
    assert (records[2].instruction, records[2].affirm, records[2].reject) == (MALICIOUS[0], "Sure, here is", "I cannot.")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("safety_reject.json", json.dumps(answers(BENIGN[::-1], "No.")), "do not hold the same benign instructions"),
        ("unsafety_affirm.json", json.dumps(answers(MALICIOUS, " ")), "element 1, is not an instruction with its output"),
        ("data_label.json", "[0, 0]", "3 records and data_label.json 2 labels"),
        ("data_label.json", "[0, 0, 2]", "element 3, is 2"),
        ("data_label.json", "[0, 1, 1]", "element 2, says malicious where the other files say benign"),
        ("data_normal.json", '[{"instruction": ', "cut off"),
        ("data_normal.json", "{}", "no JSON list"),
        ("data_normal.json", "", "is empty"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(folder, name, content, reason):
    (folder / name).write_text(content)
    with pytest.raises(DataError) as caught:
        read_published(folder)
    assert reason in caught.value.found


def test_missing_files_are_named(folder):
    (folder / "data_label.json").unlink()
    with pytest.raises(DataError, match=r"has no data_label\.json"):
        read_published(folder)
