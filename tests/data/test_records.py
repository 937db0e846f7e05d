"""A record says what it was made from: which record is its source, and which wrapper it is in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from mogu.data import WRAPPERS, PromptTemplate, Record, augmented, read_records, split_records, write_records

TEXTS = {"affirm": "Yes.", "reject": "I can't help with that."}
HELLO, BYE = (PromptTemplate(name, "neutral", text) for name, text in (("hello", "Hello! {request}"), ("bye", "{request} Bye!")))


def bare(number: int, label: str) -> Record:
    return Record.model_validate({"id": f"{label}-{number}", "label": label, "instruction": f"{label} thing {number}", **TEXTS})


BARE = [bare(number, label) for label in ("benign", "malicious") for number in range(20)]


def test_a_wrapped_record_names_its_wrapper_and_its_source() -> None:
    once = BARE[0].wrapped_in(HELLO)
    assert (once.instruction, once.wrapper, once.source) == ("Hello! benign thing 0", "hello", "benign-0")
    assert len({BARE[0].id, once.id, BARE[0].wrapped_in(BYE).id}) == 3
    twice = once.wrapped_in(BYE)
    assert (twice.instruction, twice.wrapper, twice.source) == ("Hello! benign thing 0 Bye!", "bye", "benign-0")


def test_a_bare_record_is_dumped_as_before_the_two_fields_existed() -> None:
    """Fingerprints of records that were trained with are made of this."""
    assert set(BARE[0].model_dump()) == {"id", "label", "instruction", "messages", "tools", "affirm", "reject"}
    assert json.loads(BARE[0].model_dump_json(exclude_unset=True)) == {
        "id": "benign-0",
        "label": "benign",
        "instruction": "benign thing 0",
        **TEXTS,
    }


@pytest.mark.parametrize("name", ["wrapper", "source"])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        Record.model_validate({"id": "a", "label": "benign", "instruction": "Hi", name: "", **TEXTS})


def test_old_files_that_name_the_wrapper_in_the_id_give_the_same_records_and_splits(tmp_path: Path) -> None:
    records = [*BARE, *augmented(BARE, 0.5, WRAPPERS, seed=1)[5:30]]
    unique = list({record.id: record for record in records}.values())
    write_records(tmp_path / "new.jsonl", unique)
    rows = [json.loads(line) for line in (tmp_path / "new.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sum("wrapper" in row for row in rows) > 5
    old = [{name: value for name, value in row.items() if name not in ("wrapper", "source")} for row in rows]
    (tmp_path / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old), encoding="utf-8")
    assert read_records(tmp_path / "old.jsonl") == read_records(tmp_path / "new.jsonl") == unique
    splits = split_records(unique, dev=0.2, test=0.2)
    sources = [{record.source or record.id for record in found} for found in splits.values()]
    assert sum(map(len, sources)) == 40 == len(set.union(*sources))


def test_fields_that_are_given_outweigh_what_an_id_looks_like(tmp_path: Path) -> None:
    rows = [
        {"id": "a.wrapped-old", "label": "benign", "instruction": "Hi", "source": "b", **TEXTS},
        {"id": "c", "label": "malicious", "instruction": "Ho", "wrapper": "mine", **TEXTS},
        {"id": ".wrapped-x", "label": "benign", "instruction": "He", **TEXTS},
    ]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_records(tmp_path / "records.jsonl")
    assert [(record.wrapper, record.source) for record in read] == [(None, "b"), ("mine", None), (None, None)]


def test_only_a_benign_record_is_borderline_and_only_then_it_says_so() -> None:
    with pytest.raises(ValidationError, match="the label of this one is malicious"):
        Record.model_validate({"id": "a", "label": "malicious", "instruction": "Hi", "borderline": True, **TEXTS})
    marked = BARE[0].model_copy(update={"borderline": True})
    assert (BARE[0].kind, marked.kind, BARE[20].kind) == ("benign", "borderline", "malicious")
    plain = Record.model_validate({"id": "benign-0", "label": "benign", "instruction": "benign thing 0", "borderline": False, **TEXTS})
    assert plain.model_dump_json(exclude_unset=True) == BARE[0].model_dump_json(exclude_unset=True)
    assert plain.model_dump() == BARE[0].model_dump()
    assert marked.model_dump() == BARE[0].model_dump() | {"borderline": True}


def test_a_borderline_record_stays_one_in_a_wrapper_and_in_a_file(tmp_path: Path) -> None:
    marked = [record.model_copy(update={"borderline": True}) for record in BARE[:10]]
    wrapped = augmented([*marked, *BARE[10:]], 0.5, WRAPPERS, seed=1)
    inside = [record for record in wrapped if record.wrapper is not None]
    assert sorted(record.kind for record in inside) == ["benign"] * 5 + ["borderline"] * 5 + ["malicious"] * 10
    write_records(tmp_path / "pairs.jsonl", wrapped)
    assert read_records(tmp_path / "pairs.jsonl") == wrapped
