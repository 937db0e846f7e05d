"""Conversations, tools and reasoning blocks on the command line: `mogu chat` and `mogu generate` against the library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.control import strip_control_codes

from mogu import MoguModel
from mogu.inference.prompts import WithTools, encode_marker, encode_prompt

TOOLS = [{"type": "function", "function": {"name": "oven", "parameters": {"type": "object", "properties": {}}}}]
TEMPLATE = (
    "{% if tools %}{% for tool in tools %}[{{ tool.function.name }}]{% endfor %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
Mogu = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(saved_model: Path) -> MoguModel:
    return MoguModel.from_pretrained(saved_model).eval()


def reply(model: MoguModel, prompt: Any, **options: Any) -> list[int]:
    ids = encode_prompt(model.tokenizer, prompt)
    return model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, **options)[0, len(ids) :].tolist()


def text(model: MoguModel, tokens: list[int]) -> str:
    return model.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def squeezed(shown: str) -> str:
    return "".join(strip_control_codes(shown).split())


@pytest.mark.parametrize("marker", [None, "S"])
def test_chat_routes_every_turn(saved_model: Path, model: MoguModel, run_mogu: Mogu, marker: str | None) -> None:
    """With a marker, later turns read of each reply what is behind it."""
    asked = ["Hello", "And now?", "Hello"]
    options = [] if marker is None else ["--answer-marker", marker]
    code, out, err = run_mogu("chat", saved_model, "--max-new-tokens", "16", "--system", "Be kind.", *options, stdin="\n".join(asked))
    assert code == 0, err
    turns: list[dict[str, str]] = [{"role": "system", "content": "Be kind."}]
    shown, seen = squeezed(out), 0
    unrouted = cut = 0
    for said in asked:
        turns.append({"role": "user", "content": said})
        tokens = reply(model, turns, answer_marker=marker)
        score = f"score{float(model.score([turns])[0]):.2f}"
        place = shown.find(squeezed(text(model, tokens)) + score, seen)
        assert place >= 0, (said, text(model, tokens), score)
        seen = place + 1
        unrouted += tokens == reply(model, turns, routed_tokens=0)
        kept = tokens
        if marker is not None and (found := encode_marker(model.tokenizer, marker)[0]) in tokens:
            kept = tokens[tokens.index(found) + 1 :]
            cut += 1
        turns.append({"role": "assistant", "content": text(model, kept)})
    assert unrouted == 0
    assert (cut > 0) == (marker is not None)


def test_generate_with_a_marker(saved_model: Path, model: MoguModel, run_mogu: Mogu) -> None:
    expected = text(model, reply(model, "Hello", answer_marker="i"))
    assert expected != text(model, reply(model, "Hello"))
    code, out, err = run_mogu("generate", saved_model, "Hello", "--max-new-tokens", "16", "--answer-marker", "i", "--json")
    assert code == 0, err
    assert json.loads(out)["reply"] == expected
    _, out, _ = run_mogu("generate", saved_model, "Hello", "--max-new-tokens", "16", "--answer-marker", "", "--json")
    assert json.loads(out)["reply"] == text(model, reply(model, "Hello"))
    code, _, err = run_mogu("generate", saved_model, "Hello", "--answer-marker", "do I")
    assert code == 2
    assert "not always the same tokens" in err


def test_generate_with_tools(saved_model: Path, run_mogu: Mogu, tmp_path: Path) -> None:
    tools, template = tmp_path / "tools.json", tmp_path / "tools.jinja"
    tools.write_text(json.dumps(TOOLS))
    template.write_text(TEMPLATE)
    model = MoguModel.from_pretrained(saved_model).eval()
    model.tokenizer.chat_template = TEMPLATE
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "How do I bake bread?"}]
    prompt = WithTools(turns, TOOLS)
    arguments = [
        "generate",
        saved_model,
        "How do I bake bread?",
        "--system",
        "Be kind.",
        "--tools",
        tools,
        "--max-new-tokens",
        "16",
        "--json",
    ]
    code, out, err = run_mogu(*arguments, "--chat-template", template)
    assert code == 0, err
    found = json.loads(out)
    assert found["reply"] == text(model, reply(model, prompt))
    assert found["score"] == pytest.approx(float(model.score(prompt)[0]), abs=1e-5)
    assert found["score"] != pytest.approx(float(model.score([turns])[0]), abs=1e-5)
    code, _, err = run_mogu(*arguments)  # the model's own template knows no tools
    assert code == 2
    assert "says nothing of the tools" in err
    tools.write_text("{}")
    code, _, err = run_mogu(*arguments, "--chat-template", template)
    assert code == 2
    assert "tools.json" in err
