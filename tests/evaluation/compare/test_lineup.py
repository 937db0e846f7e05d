"""The rows of a comparison: what they are called, which are chosen, and what a seed can change about them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mogu.defenses import REFUSAL, DefendedReply, TargetModel, defense
from mogu.defenses.registry import Answer
from mogu.errors import ConfigError
from mogu.evaluation.compare import Comparison, Lineup, Variant

DETECTORS = ["detect_inp", "minilm"]
LAB_ROWS = {"mogu": "MoGU", "mogu_v2": "MoGU V2", "mogu_gated": "MoGU, gated"}
BASELINES = ["none", "sft", *DETECTORS, "self_reminder", "self_examine", "retokenization", "icd", "safe_decoding", "mogu_score"]


def lineup(*models: str, defenses: tuple[str, ...] = (), shifts: tuple[float, ...] = ()) -> Lineup:
    return Lineup(Comparison(models, Path("out"), ("lab",), defenses=defenses, shifts=shifts))


@pytest.fixture
def own_defense() -> str:
    @defense("always_no", label="Always no", deterministic=True)
    def always_no(target: TargetModel) -> Answer:
        return lambda conversations, settings: [DefendedReply(REFUSAL, 0, True, intervened=True) for _ in conversations]

    return "always_no"


@pytest.mark.parametrize(
    ("models", "rows"),
    [
        (["runs/safer"], {"mogu": "MoGU"}),
        (["lab"], LAB_ROWS),
        (["runs/a/", "someone/b", "runs/c"], {"a": "a", "b": "b", "c": "c"}),
        (["lab", "runs/a"], LAB_ROWS | {"a": "a"}),
    ],
)
def test_each_model_is_a_row_with_a_name_and_a_label(models: list[str], rows: dict[str, str]) -> None:
    compared = lineup(*models)
    assert compared.names() == [*BASELINES, *rows]
    assert {name: compared[name].label for name in compared.model_names()} == rows
    assert compared["icd"].label == "ICD"


@pytest.mark.parametrize(
    ("models", "defenses", "names"),
    [
        (["runs/safer"], ("mogu", "none"), ["none", "mogu"]),
        (["lab"], ("none", "mogu"), ["none", "mogu"]),
        (["lab"], ("mogu_v2",), ["mogu_v2"]),
        (["runs/a", "runs/b"], ("none", "mogu"), ["none", "a", "b"]),  # no model is called mogu: all of them reply with that defense
        (["runs/a", "runs/b"], ("none", "b"), ["none", "b"]),
    ],
)
def test_defenses_and_models_are_chosen_by_name(models: list[str], defenses: tuple[str, ...], names: list[str]) -> None:
    assert lineup(*models, defenses=defenses).names() == names


def test_only_the_dial_of_the_first_model_is_turned() -> None:
    variants = lineup("runs/a", "runs/b", defenses=("none", "mogu"), shifts=(1.0, 0.0, -2.0, 1.0)).variants()
    assert [variant.name for variant in variants] == ["none", "a", "b", "a@+1", "a@-2"]


def test_a_seed_counts_where_something_is_drawn_or_trained_for_it() -> None:
    saved, lab = lineup("runs/a", "runs/b"), lineup("lab")
    changing = {name for name in saved.names() if saved.seed_of(Variant(name), 3) == 3}
    assert changing == {"sft", *DETECTORS, "safe_decoding", "retokenization"}
    assert {name for name in lab.names() if lab.seed_of(Variant(name), 3) == 3} == changing | {"mogu_score", *LAB_ROWS}


def test_a_new_defense_is_a_row_with_nothing_said_about_it_here(own_defense: str) -> None:
    compared = lineup("runs/safer")
    assert compared.names() == [*BASELINES, own_defense, "mogu"]
    assert compared[own_defense].label == "Always no"
    assert compared.seed_of(Variant(own_defense), 3) == 0


def test_a_defense_whose_extra_is_missing_is_left_out_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with caplog.at_level("INFO", "mogu"):
        assert lineup("runs/safer").names() == [name for name in [*BASELINES, "mogu"] if name != "minilm"]
    assert caplog.messages == ['minilm is left out: onnxruntime, which runs MiniLM, is not installed (run: pip install "mogu[minilm]")']
    assert lineup("runs/safer", defenses=("none", "mogu")).names() == ["none", "mogu"]
    with pytest.raises(ConfigError, match=r"onnxruntime.*not installed.*mogu\[minilm\]"):
        lineup("runs/safer", defenses=("none", "minilm"))


@pytest.mark.parametrize(
    ("models", "defenses", "words"),
    [
        (["runs/a", "elsewhere/a"], (), "Two rows of the comparison are called a"),
        (["runs/icd", "runs/b"], (), "Two rows of the comparison are called icd"),
        (["lab", "lab"], (), "Two rows of the comparison are called mogu"),
        (["runs/a", "runs/b"], ("none", "c"), r"no defense 'c'.*mogu_score, a, b"),
    ],
)
def test_names_that_do_not_tell_rows_apart_are_explained(models: list[str], defenses: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        lineup(*models, defenses=defenses)
