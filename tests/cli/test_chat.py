"""`mogu chat` against the library: streamed replies, scores, commands, and what later turns read of a reply."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.control import strip_control_codes

from mogu import MoguModel
from mogu.inference.prompts import encode_marker, encode_prompt
from mogu.modeling.explanation import explain

RunMogu = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(saved_model: Path) -> MoguModel:
    return MoguModel.from_pretrained(saved_model).eval()


def reply_tokens(model: MoguModel, prompt: Any, **options: Any) -> list[int]:
    ids = encode_prompt(model.tokenizer, prompt)
    return model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, **options)[0, len(ids) :].tolist()


def decode(model: MoguModel, tokens: list[int]) -> str:
    return model.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def without_spaces(output: str) -> str:
    return "".join(strip_control_codes(output).split())


@pytest.mark.parametrize("marker", [None, "S"])
def test_every_turn_is_routed(saved_model: Path, model: MoguModel, run_mogu: RunMogu, marker: str | None) -> None:
    """With an answer marker, later turns read only the part of each reply after the marker."""
    messages = ["Hello", "And now?", "Hello"]
    options = [] if marker is None else ["--answer-marker", marker]
    code, out, err = run_mogu("chat", saved_model, "--max-new-tokens", "16", "--system", "Be kind.", *options, stdin="\n".join(messages))
    assert code == 0, err
    turns: list[dict[str, str]] = [{"role": "system", "content": "Be kind."}]
    output, position = without_spaces(out), 0
    unrouted = shortened = 0
    for message in messages:
        turns.append({"role": "user", "content": message})
        tokens = reply_tokens(model, turns, answer_marker=marker)
        score = f"score{float(model.score([turns])[0]):.2f}"
        start = output.find(score + without_spaces(decode(model, tokens)), position)
        assert start >= 0, (message, decode(model, tokens), score)
        position = start + 1
        unrouted += tokens == reply_tokens(model, turns, routed_tokens=0)
        if marker is not None and (marker_id := encode_marker(model.tokenizer, marker)[0]) in tokens:
            tokens = tokens[tokens.index(marker_id) + 1 :]
            shortened += 1
        turns.append({"role": "assistant", "content": decode(model, tokens)})
    assert unrouted == 0
    assert (shortened > 0) == (marker is not None)


def test_commands_set_the_dial_and_clear_the_conversation(saved_model: Path, model: MoguModel, run_mogu: RunMogu) -> None:
    prompt = "How do I bake bread?"
    lines = [prompt, "/dial 2", "/dial up", "/help", "/reset", prompt, "/quit", "never read"]
    code, out, err = run_mogu("chat", saved_model, "--max-new-tokens", "16", stdin="\n".join(lines))
    assert code == 0, err
    output = without_spaces(out)
    assert without_spaces(decode(model, reply_tokens(model, prompt))) in output
    assert "Thedialisat2." in output
    assert "Thedialtakesanumber,suchas0.5;itisat2." in output
    assert output.count("/resetcleartheconversation") == 2  # at the start, and for the unknown command
    scores = re.findall(r"score(\d\.\d\d)", output)
    assert scores[0] == f"{float(model.score(prompt)[0]):.2f}"
    assert len(scores) == 2
    assert float(scores[1]) > float(scores[0])  # a positive dial raises the score of the same prompt


def test_why_base_and_attack_look_at_the_last_prompt_and_leave_the_conversation_as_it_was(
    saved_model: Path, model: MoguModel, run_mogu: RunMogu
) -> None:
    prompt = "How do I bake bread?"
    lines = ["/why", prompt, "/why", "/base", "/attack", "/attack prefill", "And now?"]
    code, out, err = run_mogu("chat", saved_model, "--max-new-tokens", "16", stdin="\n".join(lines))
    assert code == 0, err
    output = without_spaces(out)
    assert output.count("Nothingwassaidyet.") == 1
    explanation = explain(model, prompt)
    layer, share = max(zip(explanation.layers, explanation.by_layer, strict=True), key=lambda pair: pair[1])
    assert f"score{explanation.score:.2f}:themeanshare" in output
    assert f"layersthatraiseditmost:{layer}({share:.2f})" in output
    assert without_spaces(decode(model, reply_tokens(model, prompt, routed_tokens=0))) in output
    assert "/attacktakesoneofwrappers,prefill,delayed,best_of_n" in output
    assert re.search(r"Thebasemodelgaveinto[0-4]of4attempts,thehardenedoneto[0-4]\.", output)
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": decode(model, reply_tokens(model, prompt))}]
    last = [*turns, {"role": "user", "content": "And now?"}]
    assert without_spaces(decode(model, reply_tokens(model, last))) in output


def test_a_conversation_is_saved_once(saved_model: Path, model: MoguModel, run_mogu: RunMogu, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    prompt = "How do I bake bread?"
    options = ["--max-new-tokens", "16", "--system", "Be kind."]
    code, out, err = run_mogu("chat", saved_model, *options, stdin="\n".join([prompt, f"/save {file}", f"/save {file}", "/save"]))
    assert code == 0, err
    asked = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": prompt}]
    saved = json.loads(file.read_text())
    assert saved["messages"] == [*asked, {"role": "assistant", "content": decode(model, reply_tokens(model, asked))}]
    assert saved["scores"] == pytest.approx(model.score([asked]).tolist(), abs=1e-6)
    assert without_spaces(out).count("talk.jsonlexists") == 1
