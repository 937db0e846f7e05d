"""`mogu data overlap` and `mogu data build --near-duplicates-together`: what is nearly alike is named, and stays in one split."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mogu.cli.data import app
from mogu.data import Record, read_records, write_records
from mogu.errors import ConfigError

WORDS = 30  # one word more at the end: of 26 and 27 runs of five, 26 are in both


def mogu_data(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def families(name: str) -> Iterator[str]:
    """Thirty texts and a near-duplicate of each."""
    rng = random.Random(name)
    for number in range(30):
        text = " ".join(f"{name}{rng.randrange(1000)}" for _ in range(WORDS))
        yield from (text, f"{text.upper()} {number}")


@pytest.fixture
def lists(tmp_path: Path) -> list[object]:
    rows = (json.dumps({"instruction": text, "output": "An answer."}) for text in families("benign"))
    (tmp_path / "benign.jsonl").write_text("\n".join(rows))
    (tmp_path / "malicious.txt").write_text("\n".join(families("malicious")))
    return ["--benign", tmp_path / "benign.jsonl", "--malicious", tmp_path / "malicious.txt", "--out", tmp_path / "pairs.jsonl"]


def splits(folder: Path) -> list[Path]:
    return [folder / name for name in ("pairs.jsonl", "pairs.dev.jsonl", "pairs.test.jsonl")]


def family(record: Record) -> str:
    return str(record.id.partition("-")[0]) + str((int(record.id.partition("-")[2].partition(".")[0]) - 1) // 2)


@pytest.mark.parametrize("augment", [0, 0.5])
def test_near_duplicates_of_other_splits_are_named_unless_they_were_kept_together(
    lists: list[object], tmp_path: Path, augment: float
) -> None:
    pytest.importorskip("rensa")
    assert mogu_data("build", *lists, "--augment", augment).exit_code == 0
    where = {split: {family(record) for record in read_records(split)} for split in splits(tmp_path)}
    torn = sum(sum(name in members for members in where.values()) > 1 for name in set().union(*where.values()))
    assert torn > 5
    result = mogu_data("overlap", *splits(tmp_path), "--json")
    assert result.exit_code == 2
    found = json.loads(result.output)
    assert (found["threshold"], found["words"]) == (0.8, 5)
    assert len(found["pairs"]) == torn
    assert {pair["jaccard"] for pair in found["pairs"]} == {round(26 / 27, 4)}
    for pair in found["pairs"]:
        assert pair["first"]["file"] != pair["second"]["file"]
        first, second = (
            next(record for record in read_records(Path(pair[side]["file"])) if record.id == pair[side]["id"])
            for side in ("first", "second")
        )
        assert family(first) == family(second)
    assert f"120 records, {torn} pairs" in mogu_data("overlap", *splits(tmp_path)).output

    assert mogu_data("build", *lists, "--augment", augment, "--near-duplicates-together", "--force").exit_code == 0
    assert [len(read_records(split)) for split in splits(tmp_path)] == [96, 12, 12]
    result = mogu_data("overlap", *splits(tmp_path))
    assert result.exit_code == 0, result.output
    assert "120 records, 0 pairs" in result.output


def test_the_table_says_where_and_how_alike(tmp_path: Path) -> None:
    pytest.importorskip("rensa")
    records = [
        Record(id=f"[b]{label}", label=label, instruction=f"{label} one two three four five", affirm="Yes.", reject="No.")
        for label in ("benign", "malicious")
    ]
    for name in ("train.jsonl", "dev.jsonl"):
        write_records(tmp_path / name, records)
    result = mogu_data("overlap", tmp_path / "train.jsonl", tmp_path / "dev.jsonl")
    assert result.exit_code == 2
    assert "[b]benign" in result.output
    assert result.output.count("1.00") == 2
    assert "4 records, 2 pairs" in result.output


def test_one_file_and_a_missing_extra_are_one_error(lists: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(mogu_data("overlap", tmp_path / "pairs.jsonl").exception, ConfigError)
    monkeypatch.setitem(sys.modules, "rensa", None)
    for arguments in (("overlap", "a.jsonl", "b.jsonl"), ("build", *lists, "--near-duplicates-together")):
        error = mogu_data(*arguments).exception
        assert isinstance(error, ConfigError)
        assert "pip install 'mogu[dedup]'" in str(error)
    assert not (tmp_path / "pairs.jsonl").exists()
