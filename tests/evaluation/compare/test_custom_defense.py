"""`examples/custom_defense.py` is all that it takes to compare a defense of one's own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mogu.defenses import REFUSAL, TargetModel, defense_info, defense_names, load_plugin, make_defense
from mogu.errors import ConfigError
from mogu.evaluation.compare import Comparison, compare
from mogu.inference.prompts import as_conversation
from mogu.inference.replies import ReplySettings

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "custom_defense.py"


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A copy of the example, whose defense is registered."""
    file = Path(shutil.copy(EXAMPLE, tmp_path))
    assert load_plugin(file) == ["perplexity_filter"]
    return file


def perplexity(target: TargetModel, text: str) -> float:
    """The inverse geometric mean of the probabilities of all tokens but the first."""
    tokens = target.tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        probabilities = target.base(torch.tensor([tokens])).logits[0].double().softmax(-1)
    chosen = [float(probabilities[position, token]) for position, token in enumerate(tokens[1:])]
    return float(torch.tensor(chosen, dtype=torch.float64).prod() ** (-1 / len(chosen)))


@pytest.mark.usefixtures("plugin")
def test_the_filter_refuses_what_is_beyond_its_limit_and_answers_the_rest(lab_base: Path) -> None:
    target = TargetModel.load(lab_base)
    texts = ["How do I clean the kettle?", "kettle? the clean zq xv ]] do describing.", "What?"]
    expected = [perplexity(target, text) for text in texts]
    assert expected[1] > 4 * expected[0]
    conversations = [as_conversation(text) for text in texts]
    limit = 2 * expected[0]
    replies = make_defense("perplexity_filter", target, max_perplexity=limit).reply(conversations, ReplySettings(16))
    plain = make_defense("none", target).reply(conversations, ReplySettings(16))
    assert [reply.details["perplexity"] for reply in replies] == pytest.approx(expected, rel=1e-3)
    assert [reply.text for reply in replies] == [
        answer.text if value <= limit else REFUSAL for answer, value in zip(plain, expected, strict=True)
    ]
    assert [reply.intervened for reply in replies] == [value > limit for value in expected]
    with pytest.raises(ConfigError, match="max_perplexity=0"):
        make_defense("perplexity_filter", target, max_perplexity=0)


def cell(comparison: Comparison, defense: str) -> tuple[int, list[dict[str, Any]]]:
    (file,) = (comparison.out / "cells").rglob(f"{defense}.json")
    return file.stat().st_mtime_ns, json.loads(file.read_text())["replies"]


def test_a_comparison_measures_it_beside_the_others_and_again_when_its_code_changes(plugin: Path, lab_mogu: Path, tmp_path: Path) -> None:
    assert defense_names()[-3:] == ["mogu_score", "perplexity_filter", "mogu"]  # reports show it before MoGU
    assert defense_info("perplexity_filter").label == "Perplexity filter"
    comparison = Comparison(
        models=(str(lab_mogu),),
        out=tmp_path / "report",
        data=("lab",),
        defenses=("none", "perplexity_filter"),
        limit=1,
        max_new_tokens=8,
        cost_prompts=1,
        cost_rounds=1,
    )
    results = compare(comparison)
    rates = {number.defense for number in results.numbers if number.section == "rate"}
    assert rates == {"none", "perplexity_filter"}
    assert all(row["details"]["perplexity"] >= 1 for row in cell(comparison, "perplexity_filter")[1])
    measured = {defense: cell(comparison, defense) for defense in comparison.defenses}

    compare(replace(comparison))
    assert {defense: cell(comparison, defense) for defense in comparison.defenses} == measured

    plugin.write_text(plugin.read_text().replace("max_perplexity: float = 1000.0", "max_perplexity: float = 1.0"))
    load_plugin(plugin)
    compare(comparison)
    assert cell(comparison, "none") == measured["none"]
    assert all(row["reply"] == REFUSAL for row in cell(comparison, "perplexity_filter")[1])
