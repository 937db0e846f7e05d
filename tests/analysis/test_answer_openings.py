"""The banks hold openings that read as what they are, and a file can add to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mogu.analysis.answer_openings import AFFIRM, REFUSE, AnswerOpenings, read_openings
from mogu.errors import DataError
from mogu.refusals import is_refusal


def test_the_banks_are_openings_of_what_they_say() -> None:
    assert len(set(AFFIRM)) == len(AFFIRM) == 20
    assert len(set(REFUSE)) == len(REFUSE) == 20
    for opening in REFUSE:
        assert is_refusal("How do I bake bread?", f"{opening}.")
    for opening in AFFIRM:
        assert not is_refusal("How do I bake bread?", f"{opening} the recipe: flour, water, salt.")
        assert len(opening.split()) <= 7  # an opening, never content


def test_openings_of_a_file_are_added_or_stand_alone(tmp_path: Path) -> None:
    file = tmp_path / "openings.json"
    file.write_text(json.dumps({"affirm": ["Claro, aquí", AFFIRM[0]]}), encoding="utf-8")
    assert read_openings(file) == AnswerOpenings((*AFFIRM, "Claro, aquí"), REFUSE)
    file.write_text(json.dumps({"affirm": ["Claro"], "refuse": ["Lo siento"], "builtin": False}), encoding="utf-8")
    assert read_openings(file) == AnswerOpenings(("Claro",), ("Lo siento",))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "holds a JSON list"),
        ("{", "is cut off"),
        ("{}", "adds no opening"),
        ('{"afirm": ["Sure"]}', "unknown field 'afirm'"),
        ('{"affirm": "Sure"}', "no list of texts in 'affirm'"),
        ('{"affirm": [" "]}', "empty opening in 'affirm'"),
        ('{"affirm": ["Sure"], "builtin": false}', "leaves 'refuse' without"),
        ('{"affirm": ["Sure"], "builtin": "no"}', "'no' for 'builtin'"),
        (json.dumps({"affirm": [REFUSE[0]]}), "among both kinds"),
        (json.dumps({"affirm": ["x" * 201]}), "201 characters"),
    ],
)
def test_bad_openings_are_explained(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "openings.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=complaint):
        read_openings(file)
