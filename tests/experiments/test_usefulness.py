"""Perplexity and accuracy of a routed model, against a slow one written down term by term."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from experiments.usefulness import QUESTIONS, main, perplexity, read_questions
from mogu import MoguConfig, MoguModel
from mogu.hub import load_base, load_tokenizer
from tests.training.conftest import save_chat_model


def test_the_opening_counts_as_routed_and_the_rest_as_the_base_computes_it(make_pair) -> None:
    model, slow = make_pair("llama", torch.float64)
    prompt, answer = [5, 9, 33, 12], [60, 7, 21, 40, 3]

    def losses(logits: torch.Tensor) -> list[float]:
        steps = logits[0].log_softmax(-1)
        return [-float(steps[len(prompt) + place - 1, token]) for place, token in enumerate(answer)]

    ids = torch.tensor([[*prompt, *answer]])
    routed = losses(slow.logits(ids))
    with model.routing("off"):
        base = losses(model(ids).logits)
    found = perplexity(model, [(prompt, answer)], opening=2)
    assert found.hardened == pytest.approx(math.exp(sum([*routed[:2], *base[2:]]) / 5), rel=1e-5)
    assert found.plain == pytest.approx(math.exp(sum(base) / 5), rel=1e-5)
    assert found.hardened_opening == pytest.approx(math.exp(sum(routed[:2]) / 2), rel=1e-5)
    assert found.plain_opening == pytest.approx(math.exp(sum(base[:2]) / 2), rel=1e-5)


def test_every_question_has_four_different_choices() -> None:
    questions = read_questions()
    assert len(questions) == len(QUESTIONS.read_text().splitlines()) - 1 >= 90
    assert all(len(set(choices)) == 4 for _, choices in questions)
    assert len({question for question, _ in questions}) == len(questions)


def test_the_command_measures_a_saved_model_plain_and_hardened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval")
    save_chat_model(tmp_path / "base", seed=1)
    model = MoguModel.from_base(load_base(str(tmp_path / "base")), MoguConfig(base_model=str(tmp_path / "base"), routed_tokens=3))
    for layer in model.routed_layers:  # twice the base's product: hardened is not plain
        layer.set_router(torch.zeros(2, layer.in_features), torch.full((2,), 30.0))
    model.tokenizer = load_tokenizer(str(tmp_path / "base"))
    model.save_pretrained(tmp_path / "saved")
    rows = [{"prompt": f"Why {number}?", "chosen": "Because it is."} for number in range(3)]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--answers", str(tmp_path / "answers.jsonl"), "--limit", "2", "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["usefulness", str(tmp_path / "saved"), *options])
    main()
    numbers = json.loads((tmp_path / "out.json").read_text())
    assert json.loads(capsys.readouterr().out) == numbers
    found = numbers["perplexity"]
    assert (found["answers"], found["opening"]) == (2, 3)
    assert found["plain_opening"] != found["hardened_opening"]
    assert 0 <= numbers["accuracy"]["plain"] <= 1
