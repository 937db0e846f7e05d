"""Record files: good ones survive the way to disk and back, bad ones are named line by line."""

import json
import resource
import tracemalloc
from pathlib import Path

import pytest

from mogu.data import Record, inspect_records, read_records, split_records, write_record_files, write_records
from mogu.errors import DataError, MoguError
from mogu.files.disk_list import HELD_BYTES

GOOD = {"id": "benign-1", "label": "benign", "instruction": "Name a river.", "affirm": "The Elbe.", "reject": "I can't help with that."}
BAD_LABEL = {**GOOD, "id": "malicious-1", "label": "malicious"}


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


def problems_of(path: Path) -> list[str]:
    return [str(problem) for problem in inspect_records(path).problems]


def test_records_come_back_as_they_were(tmp_path):
    records = [
        Record(id="a", label="benign", instruction='Say "grüß dich" 🌊\nand \u2028 no more', affirm="Hi.", reject="No."),
        Record(
            id="b",
            label="malicious",
            messages=({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Explain how to pick a neighbour's lock"}),
            affirm="Sure, here is how to pick a neighbour's lock:",
            reject="I can't help with that.",
        ),
    ]
    path = tmp_path / "records.jsonl"
    write_records(path, records)
    assert read_records(path) == records
    assert [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").split("\n") if line] == ["a", "b"]


def test_blank_lines_windows_ends_and_a_byte_order_mark_do_no_harm(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n" + json.dumps(BAD_LABEL).encode())
    assert [record.id for record in read_records(path)] == ["benign-1", "malicious-1"]


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        ({**GOOD, "id": "x", "label": "harmful"}, "label", "'benign' or 'malicious'"),
        ({**GOOD, "id": "x", "instruction": "  "}, "instruction", "the text is empty"),
        ({**GOOD, "id": "x", "instruction": "x" * 1_000_000}, "instruction", "131072 characters"),
        ({**GOOD, "id": "x", "output": "y"}, "'output'", "not a field"),
        ({key: value for key, value in GOOD.items() if key != "reject"}, "reject", "is missing"),
        ({**GOOD, "id": 7}, "id", "string"),
        ({**GOOD, "id": "x", "messages": [{"role": "user", "content": "Hi"}]}, "", "exactly one of"),
        ({**GOOD, "id": "x", "instruction": None, "messages": [{"role": "robot", "content": "Hi"}]}, "messages.0.role", "'user'"),
        (GOOD, "id", "the id of line 1 already"),
        ('{"id": "x", "label": "benign", "instr', "", "cut off"),
        ('{"id": "x", "label" "benign"}', "", "not JSON"),
        ('{"id": "x", "id": "y"}', "", "'id' twice"),
        ('{"id": "x", "affirm": "\\ud83d"}', "", "surrogate"),
        ("[" * 100_000, "", "nested too deeply"),
        ("9" * 5_000, "", "a number of 5,000 digits"),
        ("[]", "", "JSON list"),
    ],
)
def test_a_bad_line_in_the_middle_is_named_with_field_and_reason(tmp_path, bad, field, reason):
    path = write_lines(tmp_path / "records.jsonl", GOOD, bad, BAD_LABEL)
    (problem,) = problems_of(path)
    assert problem.startswith("line 2")
    assert field in problem
    assert reason in problem
    with pytest.raises(DataError, match="line 2"):
        read_records(path)


def test_every_bad_line_is_found_and_the_good_ones_are_kept(tmp_path):
    path = write_lines(tmp_path / "records.jsonl", GOOD, "{", BAD_LABEL, {**GOOD, "id": "z", "label": "x", "affirm": ""})
    inspection = inspect_records(path)
    assert [(problem.line, problem.field) for problem in inspection.problems] == [(2, None), (4, "label"), (4, "affirm")]
    assert len(inspection.records) == 2
    with pytest.raises(DataError, match="and 2 more"):
        read_records(path)


def test_a_line_of_megabytes_is_refused_unread_and_the_next_is_read(tmp_path):
    path = write_lines(tmp_path / "records.jsonl", GOOD, "x" * 3_000_000, BAD_LABEL)
    inspection = inspect_records(path)
    assert [(problem.line, len(inspection.records)) for problem in inspection.problems] == [(2, 2)]
    assert "1,048,576 bytes" in inspection.problems[0].reason


@pytest.mark.parametrize("junk", [b"\xff\xfeh\x00i\x00", b"caf\xe9", b"zero \x00 byte"])
def test_bytes_that_are_no_text_are_named(tmp_path, junk):
    path = tmp_path / "records.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + junk + b"\n" + json.dumps(BAD_LABEL).encode())
    assert problems_of(path)[0].startswith("line 2: ")


def test_a_repeated_id_is_named_in_the_order_of_lines_and_left_out(tmp_path):
    others = [{**GOOD, "id": f"other-{number}"} for number in range(3)]
    path = write_lines(tmp_path / "records.jsonl", GOOD, BAD_LABEL, "", GOOD, others[0], "{", BAD_LABEL, *others[1:], GOOD)
    assert [problem.partition(":")[0] for problem in problems_of(path)] == [
        *("line 4, field 'id'", "line 6", "line 7, field 'id'", "line 10, field 'id'"),
    ]
    assert ["of line 1 already" in problem for problem in problems_of(path)] == [True, False, False, True]
    assert [record.id for record in inspect_records(path).records] == ["benign-1", "malicious-1", "other-0", "other-1", "other-2"]


def test_records_are_not_held_in_memory(tmp_path):
    count, text = 3_000, "x" * 1_000
    path = write_lines(
        tmp_path / "records.jsonl",
        *({**(GOOD, BAD_LABEL)[number % 2], "id": f"r-{number}", "instruction": f"{number} {text}"} for number in range(count)),
    )
    split_records(read_records(path))  # what is imported and allocated once
    tracemalloc.start()
    try:
        records = read_records(path)
        splits = split_records(records)
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(map(len, splits.values())) == len(records) == count
    assert held < 40 * count + 10_000  # of three million characters
    assert most < 2 * HELD_BYTES


def test_labels_of_one_kind_are_a_problem_of_the_whole_file(tmp_path):
    (problem,) = problems_of(write_lines(tmp_path / "records.jsonl", GOOD))
    assert "all 1 records are benign" in problem


def test_a_hostile_value_reaches_no_terminal_raw(tmp_path):
    (problem,) = problems_of(write_lines(tmp_path / "records.jsonl", GOOD, {**GOOD, "label": "\x1b[2Jgone"}, BAD_LABEL))
    assert "\x1b" not in problem


def test_no_file_an_empty_one_a_folder_and_a_device(tmp_path):
    empty, blank = tmp_path / "empty.jsonl", tmp_path / "blank.jsonl"
    empty.touch()
    blank.write_text("\n\n")
    for path, reason in (
        (tmp_path / "none", "no file"),
        (empty, "empty"),
        (blank, "blank"),
        (tmp_path, "regular"),
        ("/dev/zero", "regular"),
    ):
        with pytest.raises(DataError, match=reason):
            read_records(Path(path))


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_lines(tmp_path / "records.jsonl", GOOD, BAD_LABEL)
    before = path.read_bytes()
    many = [Record(**{**GOOD, "id": f"benign-{number}"}) for number in range(2_000)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(MoguError, match="could not be written"):
            write_record_files({tmp_path / "other.jsonl": many[:1], path: many})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["records.jsonl"]
