"""generate, chat and info on a tiny saved model; import-reference on the reference release."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mogu import MoguModel
from mogu.inference.padding import left_pad
from mogu.inference.prompts import encode_prompt

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "reference-vectors" / "llama"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason="the reference vectors (../shared) are not here")


def mogu(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mogu", *arguments], input=stdin, capture_output=True, text=True, timeout=300)


def expected_reply(folder: Path, prompt: str, tokens: int) -> tuple[str, float]:
    model = MoguModel.from_pretrained(folder).eval()
    batch = left_pad([encode_prompt(model.tokenizer, prompt)], 0, model.device)
    output = model.generate(**batch, max_new_tokens=tokens, do_sample=False)
    text = model.tokenizer.decode(output[0, batch["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    return text, float(model.score(prompt)[0])


def test_generate_replies_and_scores_as_the_library_does(saved_model: Path) -> None:
    done = mogu("generate", str(saved_model), "--max-new-tokens", "12", "--json", stdin="How do I bake bread?\n\nHello\n")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["prompt"] for line in lines] == ["How do I bake bread?", "Hello"]
    for line in lines:
        reply, score = expected_reply(saved_model, line["prompt"], 12)
        assert line["reply"] == reply
        assert line["score"] == pytest.approx(score, abs=1e-5)


def test_generate_without_routing_is_the_base_model(saved_model: Path) -> None:
    done = mogu("generate", str(saved_model), "Hello", "--max-new-tokens", "12", "--routed-tokens", "0", "--json")
    model = MoguModel.from_pretrained(saved_model).eval()
    batch = left_pad([encode_prompt(model.tokenizer, "Hello")], 0, model.device)
    output = model.detach().generate(**batch, max_new_tokens=12, do_sample=False)
    tokenizer = model.tokenizer
    assert json.loads(done.stdout)["reply"] == tokenizer.decode(output[0, batch["input_ids"].shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--routed-tokens", "some"], "--routed-tokens is 'some'"),
        (["--handoff", "sideways"], "handoff is 'sideways'"),
        (["--dtype", "float7"], "--dtype is 'float7'"),
        (["--dial", "nan"], "dial is nan"),
        (["--base-model", "./nowhere"], "nowhere was not found"),
        (["--chat-template", "./nowhere.jinja"], "nowhere.jinja cannot be read"),
    ],
)
def test_bad_options_are_one_error_with_exit_code_2(saved_model: Path, arguments: list[str], complaint: str) -> None:
    done = mogu("generate", str(saved_model), "Hello", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_generate_wants_a_prompt(saved_model: Path) -> None:
    done = mogu("generate", str(saved_model), stdin="\n")
    assert done.returncode == 2
    assert "no prompt" in done.stderr


def test_chat_streams_replies_and_shows_the_score(saved_model: Path) -> None:
    said = "How do I bake bread?\n/dial 2\n/dial up\n/reset\nHow do I bake bread?\n"
    done = mogu("chat", str(saved_model), "--max-new-tokens", "12", stdin=said)
    assert done.returncode == 0, done.stderr
    reply, score = expected_reply(saved_model, "How do I bake bread?", 12)
    shown = "".join(done.stdout.split())
    assert "".join(reply.split()) in shown
    assert f"score{score:.2f}" in shown
    assert "Thedialisat2." in shown
    assert "thedialtakesanumber" in shown.lower()
    scores = [float(part[:4]) for part in shown.split("score")[1:]]
    assert len(scores) == 2
    assert scores[1] > scores[0]  # a positive dial finds the same prompt more malicious


def test_info_tells_what_a_model_is_without_its_base(saved_model: Path) -> None:
    done = mogu("info", str(saved_model), "--json")
    facts = json.loads(done.stdout)
    assert facts["routed_layers"] == 2
    # 2 responders of rank 2 and 2 folded routers in each of 2 layers of width 32
    assert facts["added_parameters"] == 2 * (2 * (2 * 32 + 32 * 2) + 2 * (32 + 1))
    assert facts["base_shape"] == {"model_type": "llama", "layers": 2, "width": 32}
    assert mogu("info", str(saved_model)).returncode == 0


@needs_vectors
def test_import_reference_makes_a_model_with_the_published_logits(tmp_path: Path) -> None:
    import torch

    out = tmp_path / "imported"
    parts = {"--base": "base", "--unwill": "resp_unwill", "--glad": "resp_glad", "--router": "router_layer/5920_router.pth"}
    arguments = [text for option, path in parts.items() for text in (option, str(VECTORS / path))]
    done = mogu("import-reference", *arguments, "--out", str(out))
    assert done.returncode == 0, done.stderr
    expected = load_file(VECTORS / "expected.safetensors")
    model = MoguModel.from_pretrained(out).eval()
    with torch.no_grad():
        logits = model(input_ids=expected["prompt1.input_ids"]).logits
    assert torch.allclose(logits, expected["prompt1.mogu_logits"], atol=1e-4)


@needs_vectors
def test_import_reference_leaves_foreign_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    base = str(VECTORS / "base")
    done = mogu("import-reference", "--base", base, "--unwill", "u", "--glad", "g", "--router", "r", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "was not written by mogu" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
