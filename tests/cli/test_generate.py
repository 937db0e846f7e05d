"""`mogu generate` against the library: replies and scores with every option, and one clear error for options that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mogu import MoguModel
from mogu.inference.prompts import WithTools, encode_prompt

TOOLS = [{"type": "function", "function": {"name": "oven", "parameters": {"type": "object", "properties": {}}}}]
TEMPLATE = (
    "{% if tools %}{% for tool in tools %}[{{ tool.function.name }}]{% endfor %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
PROMPT = "How do I bake bread?"
RunMogu = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(saved_model: Path) -> MoguModel:
    return MoguModel.from_pretrained(saved_model).eval()


def reply(model: Any, tokenizer: Any, prompt: Any, **options: Any) -> str:
    ids = encode_prompt(tokenizer, prompt)
    output = model.generate(torch.tensor([ids]), max_new_tokens=12, **({"do_sample": False} | options))
    return tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True).strip()


@pytest.fixture
def generate(saved_model: Path, run_mogu: RunMogu) -> Callable[..., list[dict[str, Any]]]:
    """Run the command and return its JSON lines."""

    def run(*arguments: str | Path, stdin: str = "") -> list[dict[str, Any]]:
        code, out, err = run_mogu("generate", saved_model, "--max-new-tokens", "12", "--json", *arguments, stdin=stdin)
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    return run


Generate = Callable[..., list[dict[str, Any]]]


def test_replies_and_scores_are_those_of_the_library(generate: Generate, model: MoguModel) -> None:
    lines = generate(stdin=f"{PROMPT}\n\nHello\n")
    assert [line["prompt"] for line in lines] == [PROMPT, "Hello"]
    for line in lines:
        assert line["reply"] == reply(model, model.tokenizer, line["prompt"])
        assert line["score"] == pytest.approx(float(model.score(line["prompt"])[0]), abs=1e-5)


def test_text_output_shows_prompt_reply_and_score(saved_model: Path, run_mogu: RunMogu, model: MoguModel) -> None:
    code, out, err = run_mogu("generate", saved_model, PROMPT, "--max-new-tokens", "12")
    assert code == 0, err
    assert out == f"> {PROMPT}\n{reply(model, model.tokenizer, PROMPT)}\n[score {float(model.score(PROMPT)[0]):.2f}]\n\n"


def test_without_routing_the_base_model_replies(generate: Generate, model: MoguModel) -> None:
    (line,) = generate(PROMPT, "--routed-tokens", "0")
    tokenizer = model.tokenizer
    assert line["score"] is None
    assert line["reply"] != reply(model, tokenizer, PROMPT)
    assert line["reply"] == reply(model.detach(), tokenizer, PROMPT)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--dial", "3"], {}),
        (["--routed-tokens", "all"], {"routed_tokens": "all"}),
        (["--handoff", "continue"], {"handoff": "continue"}),
        (["--temperature", "2", "--seed", "5"], {"do_sample": True, "temperature": 2.0}),
        (["--answer-marker", "i"], {"answer_marker": "i"}),
        (["--answer-marker", ""], {"answer_marker": None}),
    ],
)
def test_options_are_those_of_generate(generate: Generate, model: MoguModel, arguments: list[str], options: dict[str, Any]) -> None:
    if "--dial" in arguments:
        model.dial = 3.0
    torch.manual_seed(5)
    expected = reply(model, model.tokenizer, "Hello", **options)
    assert [line["reply"] for line in generate("Hello", *arguments)] == [expected]


def test_tools_are_described_by_the_chat_template(
    generate: Generate, saved_model: Path, model: MoguModel, run_mogu: RunMogu, tmp_path: Path
) -> None:
    tools, template = tmp_path / "tools.json", tmp_path / "tools.jinja"
    tools.write_text(json.dumps(TOOLS))
    template.write_text(TEMPLATE)
    model.tokenizer.chat_template = TEMPLATE
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": PROMPT}]
    prompt = WithTools(turns, TOOLS)
    arguments = [PROMPT, "--system", "Be kind.", "--tools", tools]
    (line,) = generate(*arguments, "--chat-template", template)
    assert line["reply"] == reply(model, model.tokenizer, prompt)
    assert line["score"] == pytest.approx(float(model.score(prompt)[0]), abs=1e-5)
    assert line["score"] != pytest.approx(float(model.score([turns])[0]), abs=1e-5)
    code, _, err = run_mogu("generate", saved_model, *arguments)  # the model's own template describes no tools
    assert code == 2
    assert "tools" in err
    tools.write_text("{}")
    code, _, err = run_mogu("generate", saved_model, *arguments, "--chat-template", template)
    assert code == 2
    assert "tools.json" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--routed-tokens", "some"], "--routed-tokens is 'some'"),
        (["--handoff", "sideways"], "handoff is 'sideways'"),
        (["--dtype", "float7"], "--dtype is 'float7'"),
        (["--dial", "nan"], "dial is nan"),
        (["--base-model", "./nowhere"], "nowhere does not exist"),
        (["--chat-template", "./nowhere.jinja"], "nowhere.jinja cannot be read"),
        (["--answer-marker", "do I"], "not always the same tokens"),
    ],
)
def test_unusable_options_are_one_error_with_exit_code_2(saved_model: Path, run_mogu: RunMogu, arguments: list[str], message: str) -> None:
    code, out, err = run_mogu("generate", saved_model, "Hello", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_a_missing_prompt_is_an_error(saved_model: Path, run_mogu: RunMogu) -> None:
    code, _, err = run_mogu("generate", saved_model, stdin="\n")
    assert code == 2
    assert "no prompt" in err
