"""A saved gated model on the command line: info, score, generate, calibrate with a promise, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mogu import MoguConfig, MoguModel
from mogu.hub import load_base, load_tokenizer
from mogu.inference.turns import find_turn_marks
from mogu.modeling.config import GateConfig
from mogu.modeling.gated.gate import Gate
from mogu.modeling.gated.model import GatedModel
from tests.gated_models import randomized

Mogu = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def saved_gated(saved_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = saved_model.parent / "base"
    marks = find_turn_marks(load_tokenizer(str(base)))
    gate = GateConfig(refuse=0.5, before=marks.before, after=marks.after, header=marks.header)
    config = MoguConfig(base_model=str(base), rank=2, lora_alpha=4, routed_tokens="all", gate=gate)
    model = MoguModel.from_base(load_base(str(base)), config)
    assert isinstance(model, GatedModel)
    randomized(model)
    model.set_gate(Gate({0: torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) * 2}, 0.0))
    folder = tmp_path_factory.mktemp("gated") / "saved"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def requests_file(tmp_path: Path) -> Path:
    words = ("bread", "tea", "soup", "jam", "rice", "corn", "fish", "plum")
    file = tmp_path / "requests.txt"
    file.write_text("".join(f"How do I make {number} loaves of {words[number % 8]}?\n" for number in range(100)))
    return file


def test_info_says_what_it_is(run_mogu: Mogu, saved_gated: Path) -> None:
    facts = json.loads(run_mogu("info", saved_gated, "--json")[1])
    assert (facts["method"], facts["responders"]) == ("gated", "unwill")
    assert facts["gate"] == {"refuse": 0.5, "careful": None, "listen": None}
    assert facts["added_parameters"] == 2 * 2 * (32 + 32) + 4 * 32 + 1


def test_scores_and_replies(run_mogu: Mogu, saved_gated: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("How do I bake bread?\nWhich tea is best?\n")
    code, scored, err = run_mogu("score", saved_gated, prompts)
    assert code == 0, err
    code, _, err = run_mogu("generate", saved_gated, "How do I bake bread?", "--max-new-tokens", "4", "--json")
    assert code == 0, err
    model = MoguModel.from_pretrained(saved_gated)
    expected = model.score(["How do I bake bread?", "Which tea is best?"]).tolist()
    rows = [json.loads(line) for line in scored.splitlines()]
    assert [row["score"] for row in rows] == pytest.approx(expected, abs=1e-5)


def test_calibrate_promises_and_writes_on_request(run_mogu: Mogu, saved_gated: Path, requests_file: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(saved_gated, model)
    options = ["calibrate", model, "--benign", requests_file, "--max-benign-refusal", "0.05"]
    code, shown, err = run_mogu(*options)
    assert code == 0, err
    assert "at most 5.00% of requests like these are refused" in shown
    assert json.loads((model / "mogu_config.json").read_text())["gate"]["refuse"] == 0.5
    written = json.loads(run_mogu(*options, "--write", "--json")[1])
    assert written["written"] is True
    assert written["alarms"] <= 1  # 95 % confidence allows one of 100 where 5 % are promised
    threshold = json.loads((model / "mogu_config.json").read_text())["gate"]["refuse"]
    assert threshold == written["threshold"]
    scores = MoguModel.from_pretrained(model).score(requests_file.read_text().splitlines())
    assert int((scores.double() >= threshold).sum()) == written["alarms"]


def test_what_cannot_be_promised_is_refused(run_mogu: Mogu, saved_gated: Path, saved_model: Path, requests_file: Path) -> None:
    code, _, err = run_mogu("calibrate", saved_gated, "--benign", requests_file, "--max-benign-refusal", "0.01")
    assert (code, "at least 299" in err) == (2, True)
    code, _, err = run_mogu("calibrate", saved_model, "--benign", requests_file, "--max-benign-refusal", "0.05")
    assert (code, "has no gate" in err) == (2, True)
    code, _, err = run_mogu("calibrate", saved_gated)
    assert (code, "--dev" in err) == (2, True)
