"""`mogu chat` against the library: streamed replies, scores, commands, and what later turns read of a reply."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.control import strip_control_codes

from mogu import MoguModel
from mogu.inference.prompts import encode_marker, encode_prompt

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
        start = output.find(without_spaces(decode(model, tokens)) + score, position)
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
    assert output.count("/resetclearstheconversation") == 2  # at the start, and for the unknown command
    scores = [part[:4] for part in output.split("score")[1:]]
    assert scores[0] == f"{float(model.score(prompt)[0]):.2f}"
    assert len(scores) == 2
    assert float(scores[1]) > float(scores[0])  # a positive dial raises the score of the same prompt
