"""Openings announce what was asked for in the words of the instruction, and nothing more."""

import csv
import random
import re
from pathlib import Path

import pytest

from mogu.data import opening_for, read_instructions
from mogu.refusals import is_refusal

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")


@pytest.mark.parametrize(
    ("instruction", "ending"),
    [
        ("Write a short poem about rain.", "is a short poem about rain:"),
        ("List five rivers", "are five rivers:"),
        ("Provide instructions for folding a boat", "are instructions for folding a boat:"),
        ("Ideas for pranking a friend?", "are ideas for pranking a friend:"),
    ],
)
def test_openings_announce_what_was_asked_for(instruction, ending):
    assert opening_for(instruction, random.Random(0)).endswith(ending)


@needs_shared
def test_openings_are_one_line_from_the_instructions_own_words():
    own = set("sure here of course certainly absolutely is are a an on guide plan for to some help with how explanation".split())  # noqa: SIM905
    for instruction in read_instructions(SHARED / "advbench.csv"):
        opening = opening_for(instruction.text, random.Random(0))
        assert opening.endswith(":")
        assert "\n" not in opening
        assert not is_refusal(instruction.text, opening)
        foreign = set(re.findall(r"\w+", opening.lower())) - set(re.findall(r"\w+", instruction.text.lower())) - own
        assert all(word.endswith("ing") for word in foreign), foreign


@needs_shared
def test_openings_say_is_and_are_as_advbench_does():
    with (SHARED / "advbench.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    number = re.compile(r"\bhere (is|are) ", re.IGNORECASE)
    ours = [number.search(opening_for(row["goal"], random.Random(0))).group(1) for row in rows]
    theirs = [number.search(row["target"]).group(1) for row in rows]
    same = sum(one == other for one, other in zip(ours, theirs, strict=True))
    assert same > 0.9 * len(rows)
