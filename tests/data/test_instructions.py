"""Plain instructions: the public sets are read whole, and every broken file is answered with one clear error."""

import json
from pathlib import Path

import pytest

from mogu.data import read_instructions
from mogu.errors import DataError

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")


@needs_shared
@pytest.mark.parametrize(
    ("name", "count", "answers"),
    [("advbench.csv", 520, 0), ("malicious_instruct.txt", 100, 0), ("alpaca_instructions.jsonl", 2000, 0), ("seed_tasks.jsonl", 175, 175)],
)
def test_public_sets_are_read_whole(name, count, answers):
    instructions = read_instructions(SHARED / name)
    assert len(instructions) == count
    assert sum(instruction.answer is not None for instruction in instructions) == answers
    assert [instruction.number for instruction in instructions] == list(range(1, count + 1))


@needs_shared
def test_a_column_can_be_named():
    targets = read_instructions(SHARED / "advbench.csv", "target")
    assert sum(target.text.startswith("Sure, here") for target in targets) > 500


def test_alpacas_input_belongs_to_the_instruction(tmp_path):
    path = tmp_path / "alpaca.jsonl"
    rows = [{"instruction": "Count the words.", "input": "one two", "output": "Two."}, {"instruction": "Name a river.", "input": ""}]
    path.write_text("\n".join(map(json.dumps, rows)))
    first, second = read_instructions(path)
    assert (first.text, first.answer) == ("Count the words.\n\none two", "Two.")
    assert (second.text, second.answer) == ("Name a river.", None)


def test_quoted_fields_may_span_lines(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('prompt,output\n"Add these:\n1, 2",3\n\nName a river.,\n')
    assert [(row.text, row.answer) for row in read_instructions(path)] == [("Add these:\n1, 2", "3"), ("Name a river.", None)]


@pytest.mark.parametrize(
    ("name", "content", "column", "reason"),
    [
        ("a.csv", "one,two\nx,y\n", None, "'one', 'two'"),
        ("a.csv", "one,two\nx,y\n", "three", "'one', 'two'"),
        ("a.csv", "prompt,two\nx\n", None, "line 2, has 1 fields"),
        ("a.csv", 'prompt\n"never closed\n', None, "not CSV"),
        ("a.csv", "prompt,prompt\nx,y\n", None, "twice"),
        ("a.csv", "prompt\n" + "x" * 200_000 + "\n", None, "field limit"),
        ("a.csv", "prompt\n", None, "no instruction"),
        ("a.csv", "prompt,two\n ,y\n", None, "is empty"),
        ("a.jsonl", '{"prompt": "x"}\n{"prom', None, "line 2, is cut off"),
        ("a.jsonl", '{"prompt": ["x"]}\n', None, "holds a list"),
        ("a.jsonl", '"plain"\n', None, "JSON str"),
        ("a.jsonl", '{"other": "x"}\n', None, "'other'"),
        ("a.txt", "x\n" + "y" * 2_000_000, None, "line 2, is longer"),
        ("a.txt", "y" * 1_000_000, None, "1,000,000 characters"),
        ("a.txt", "\n \n", None, "no instruction"),
        ("a.txt", "x\n", "prompt", "no column"),
        ("a.txt", "", None, "is empty"),
        ("a.json", "[]", None, "'.json'"),
    ],
)
def test_broken_files_are_answered_with_one_clear_error(tmp_path, name, content, column, reason):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_instructions(path, column)
    assert reason in caught.value.found
    assert len(str(caught.value)) < 1_000


def test_latin_1_is_no_utf_8(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("Où est la gare ?".encode("latin-1"))
    with pytest.raises(DataError, match="line 1, is not UTF-8"):
        read_instructions(path)


@pytest.mark.parametrize("nothing", ["<noinput>", "No input", "<No Input>", "[no output]", "N/A", "n/a.", "NaN", "<empty>", " "])
def test_what_stands_for_nothing_is_nothing(tmp_path, nothing):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"instruction": "Name a river.", "input": nothing, "output": nothing}) + "\n")
    [instruction] = read_instructions(path)
    assert (instruction.text, instruction.answer) == ("Name a river.", None)
    path.write_text(json.dumps({"instruction": nothing}) + "\n")
    with pytest.raises(DataError, match="is empty"):
        read_instructions(path)


@pytest.mark.parametrize("something", ["None.", "No.", "Nothing", "-", "No input was needed."])
def test_short_answers_are_answers(tmp_path, something):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"instruction": "How many?", "output": something}) + "\n")
    assert read_instructions(path)[0].answer == something
