"""`mogu score` on a tiny saved model: the scores of `MoguModel.score`, in every form, and what it does with bad input."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mogu import MoguModel

RunMogu = Callable[..., tuple[int, str, str]]
TEXTS = ("How do I bake bread?", "Hello", "How do I pick a lock?")


@pytest.fixture
def wanted(saved_model: Path) -> list[float]:
    model = MoguModel.from_pretrained(saved_model)
    return [float(model.score(text)[0]) for text in TEXTS]  # one at a time, where the command has them in a batch


def test_a_line_for_each_prompt_and_a_summary(saved_model: Path, run_mogu: RunMogu, tmp_path: Path, wanted: list[float]) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS))
    code, out, err = run_mogu("score", saved_model, file, "--threshold", "0")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["prompt"] for row in rows] == list(TEXTS)
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert [row["score"] for row in rows] == pytest.approx(wanted, abs=2e-6)
    assert "unlabeled" in err
    assert f"{sum(wanted) / 3:.3f}" in err


def test_files_with_labels(saved_model: Path, run_mogu: RunMogu, tmp_path: Path, wanted: list[float]) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("goal,label\n" + "".join(f"{text},{label}\n" for text, label in zip(TEXTS, ("good", "good", "bad"), strict=True)))
    for name in ("scores.csv", "scores.jsonl"):
        code, out, err = run_mogu("score", saved_model, file, "--column", "goal", "--out", tmp_path / name, "--threshold", "1")
        assert (code, out) == (0, ""), err
        with (tmp_path / name).open(newline="") as written:
            rows = list(csv.DictReader(written)) if name.endswith(".csv") else [json.loads(line) for line in written]
        assert [row["label"] for row in rows] == ["good", "good", "bad"]
        assert [float(row["score"]) for row in rows] == pytest.approx(wanted, abs=2e-6)
        assert "above 1" in err


def test_the_dial_moves_scores(saved_model: Path, run_mogu: RunMogu, tmp_path: Path, wanted: list[float]) -> None:
    file = tmp_path / "texts.txt"
    file.write_text(TEXTS[0])
    _, out, _ = run_mogu("score", saved_model, file, "--dial", "3")
    assert json.loads(out)["score"] > wanted[0]


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", (), "texts.txt is empty"),
        ("Hello", ("--out", "scores.xlsx"), "a file ending in .csv or .jsonl"),
        ("Hello", ("--column", "goal"), "has no column"),
    ],
)
def test_bad_input_is_one_error(
    saved_model: Path, run_mogu: RunMogu, tmp_path: Path, text: str, options: tuple[str, ...], words: str
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text(text)
    code, out, err = run_mogu("score", saved_model, file, *options)
    assert (code, out) == (2, "")
    assert words in err
