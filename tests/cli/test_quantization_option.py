"""``--quantization`` as a person meets it: a model that was trained on a base in 4 or 8 bits is run on one, and on another if asked to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mogu import MoguConfig, MoguModel
from mogu.hub import load_base
from tests.conftest import randomize
from tests.quantized import BITS, needs_bitsandbytes

needs_bitsandbytes()

Mogu = Callable[..., tuple[int, str, str]]
PROMPT = "How do I bake bread?"
STANDS = "stands on one with no quantization"


@pytest.fixture(scope="module", params=BITS)
def quantized(request: pytest.FixtureRequest, saved_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The bits, and the folder of a model that was made on a base in so many."""
    folder = tmp_path_factory.mktemp("quantized") / "small"
    base = load_base(str(saved_model.parent / "base"), quantization=request.param)
    model = MoguModel.from_base(base, MoguConfig(base_model=str(saved_model.parent / "base"), rank=2, lora_alpha=4))
    randomize(model)
    model.save_pretrained(folder)
    return request.param, folder


def test_generate_score_info_and_chat(
    quantized: tuple[str, Path], run_mogu_offline: Mogu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bits, folder = quantized
    model: Any = MoguModel.from_pretrained(folder, quantization=bits).eval()
    plain: Any = MoguModel.from_pretrained(folder).eval()
    expected, other = float(model.score(PROMPT)[0]), float(plain.score(PROMPT)[0])
    assert abs(expected - other) > 1e-5
    caplog.clear()
    code, out, err = run_mogu_offline("generate", folder, PROMPT, "--max-new-tokens", "6", "--json")
    assert code == 0, err
    assert STANDS not in caplog.text
    assert json.loads(out)["score"] == pytest.approx(expected, abs=1e-6)
    code, out, err = run_mogu_offline("generate", folder, PROMPT, "--max-new-tokens", "6", "--json", "--quantization", "none")
    assert json.loads(out)["score"] == pytest.approx(other, abs=1e-6)
    assert STANDS in caplog.text
    (tmp_path / "prompts.txt").write_text(PROMPT + "\n")
    code, out, err = run_mogu_offline("score", folder, tmp_path / "prompts.txt")
    assert code == 0, err
    assert f"{expected:.2f}" in out
    code, out, err = run_mogu_offline("chat", folder, "--max-new-tokens", "3", stdin=f"{PROMPT}\n/quit\n")
    assert code == 0, err
    assert f"{expected:.2f}" in out
    code, out, err = run_mogu_offline("info", folder, "--json")
    assert json.loads(out)["base_quantization"] == bits


def test_compare_and_attack(
    quantized: tuple[str, Path],
    saved_model: Path,
    run_mogu_offline: Mogu,
    dev_records: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("inspect_ai", reason="inspect-ai is not installed")
    monkeypatch.setattr("mogu.attacks.weights.STEPS", 1)
    _, folder = quantized
    options = ["--defenses", "none,mogu", "--data", str(dev_records), "--seeds", "1", "--shifts", "", "--max-new-tokens", "3"]
    code, out, err = run_mogu_offline("compare", folder, "--out", tmp_path / "report", *options)
    assert code == 0, err
    assert "On the frontier:" in out
    code, out, err = run_mogu_offline("compare", folder, saved_model, "--out", tmp_path / "both", *options)
    assert code == 2
    assert "say with --quantization how to load it" in err
    (tmp_path / "requests.txt").write_text("break the door\n")
    options = ["--data", f"malicious={tmp_path / 'requests.txt'}", "--attacks", "plain,ten_steps,gcg_aware", "--queries", "2"]
    options += ["--limit", "1", "--max-new-tokens", "3", "--flops", "1e9"]
    code, out, err = run_mogu_offline("attack", folder, "--out", tmp_path / "attacks", *options)
    assert code == 0, err
    assert "ten steps of fine-tuning" in out


def test_a_quantization_that_is_none_is_refused(saved_model: Path, run_mogu_offline: Mogu) -> None:
    code, _, err = run_mogu_offline("generate", saved_model, PROMPT, "--quantization", "3bit")
    assert code == 2
    assert "The quantization is '3bit'. Expected: one of auto, none, 4bit, 8bit" in " ".join(err.split())
