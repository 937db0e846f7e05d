"""Gated requests in vLLM's engine: decided by all of the prompt, wherever its tokens were computed, and the base model's unless flagged."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import httpx
import pytest
import torch
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest

from mogu.serving.validation import validate_request

from .conftest import NEW_TOKENS, Library
from .test_replies import ask, assert_replies, engine, metric


@pytest.fixture(scope="module")
def decided(library, lab_prompts):
    """Long prompts and, by whether their gate flags them, the library's replies."""
    prompts = [tuple(prompt) for prompt in lab_prompts if len(prompt) > 64][:24]
    replies = library.replies([(prompt, "gated", ()) for prompt in prompts])
    refuse = library.models["gated"].gate_config.refuse
    found = {flagged: [row for row in zip(prompts, replies, strict=True) if (row[1][1] >= refuse) == flagged] for flagged in (False, True)}
    assert min(map(len, found.values())) >= 3
    return found


def asked_for(llm: LLM, models, prompts, name: str | None, **sampling):
    return ask(llm, [(prompt, name, ()) for prompt in prompts], models, **sampling)


EARLY = tuple(range(100, 180))
"""A prompt that the base model reads before there is a gate; no other begins like it."""


@pytest.fixture(scope="module")
def llm(base, models) -> LLM:
    llm = engine(base, block_size=32, max_model_len=512)
    asked_for(llm, models, [EARLY], None)
    asked_for(llm, models, [(1, 2, 3)], "gated")  # loads the gate, as a server does before its first request
    return llm


@pytest.mark.parametrize("flagged", [False, True])
def test_a_prompt_that_the_base_model_has_read_is_decided_all_the_same(llm, models, decided, flagged):
    """All blocks but the last of each prompt come from the prefix cache, and the gate hears what they held."""
    prompts, expected = zip(*decided[flagged], strict=True)
    asked_for(llm, models, prompts, None)
    before = metric(llm, "vllm:prefix_cache_hits")
    requests = [(prompt, "gated", ()) for prompt in prompts]
    assert_replies(asked_for(llm, models, prompts, "gated"), expected, requests)
    assert metric(llm, "vllm:prefix_cache_hits") - before >= sum(len(prompt) // 32 - 1 for prompt in prompts) * 32


def test_a_benign_answer_shares_its_blocks_with_the_base_model(llm, models, decided):
    prompts, expected = zip(*decided[False], strict=True)
    replies = asked_for(llm, models, prompts, "gated")
    assert [reply for reply, _ in replies] == [reply for reply, _ in expected]
    longer = [prompt + tuple(reply) for prompt, (reply, _) in zip(prompts, replies, strict=True)]
    before = metric(llm, "vllm:prefix_cache_hits")
    asked_for(llm, models, longer, None)
    assert metric(llm, "vllm:prefix_cache_hits") - before == sum((len(prompt) - 1) // 32 * 32 for prompt in longer)


def test_what_no_gate_has_heard_is_not_let_through(llm, models):
    """Blocks from before a gate was loaded hold keys and values, and nothing for it."""
    assert [score for _, score in asked_for(llm, models, [EARLY], "gated")] == [1.0]
    other = (*EARLY[40:], *EARLY[:40])
    [(_, score)] = asked_for(llm, models, [other], "gated")
    assert score < 1


def test_an_expert_stays_on_behind_an_answer_marker_as_in_the_library(base, library, save_gated, plain_lora, decided, tmp_path):
    """A template may open a block of thoughts: then the gate hears the prompt up to the answer's header, and no more."""
    answers = [reply for _, (reply, _) in decided[True]]
    counts = Counter(token for reply in answers for token in reply[: NEW_TOKENS // 2])
    [(token, _)] = counts.most_common(1)
    marker = library.tokenizer.decode([token])
    folder = save_gated(tmp_path / "reasoning", 5, answer_marker=marker)
    assert json.loads((folder / "mogu_config.json").read_text())["answer_marker"] == marker
    opened = [prompt + tuple(answers[0][:3]) for flagged in (False, True) for prompt, _ in decided[flagged][:4]]
    prompts = [prompt for prompt, _ in decided[True]] + opened
    requests = [(prompt, "reasoning", ()) for prompt in prompts]
    expected = Library(base, {"reasoning": folder}, plain_lora, library.tokenizer).replies(requests)
    assert [reply for reply, _ in expected[: len(answers)]] == answers  # which had no marker
    assert sum(token in reply for reply in answers) > 1
    assert_replies(ask(engine(base, max_model_len=512), requests, {"reasoning": folder}), expected, requests)
    scores = [score for _, score in expected[len(answers) :]]
    assert scores == pytest.approx([score for flagged in (False, True) for _, (_, score) in decided[flagged][:4]], abs=1e-4)


def test_settings_that_a_gate_cannot_have_are_refused(llm, models, decided):
    (prompt, _), *_ = decided[True]
    with pytest.raises(VLLMValidationError, match="no prompt_logprobs"):
        asked_for(llm, models, [prompt], "gated", prompt_logprobs=1)
    config = SimpleNamespace(
        use_v2_model_runner=False,
        parallel_config=SimpleNamespace(pipeline_parallel_size=1),
        speculative_config=None,
        additional_config={"mogu_taps": [1, 2]},
    )
    lora = LoRARequest("gated", 1, str(models["gated"]))

    def asked(**fields: object) -> SimpleNamespace:
        return SimpleNamespace(**{"sampling_params": SamplingParams(), "lora_request": lora, "prompt_embeds": None} | fields)

    validate_request(asked(), config)
    with pytest.raises(VLLMValidationError, match="A gate reads token ids"):
        validate_request(asked(prompt_embeds=torch.zeros(3, 8)), config)
    config.additional_config = {}
    with pytest.raises(VLLMValidationError, match="reads no layers for a gate"):
        validate_request(asked(), config)


def test_a_gate_is_served_over_http(run_server, models, library, tokenizer, decided, tmp_path):
    arguments = [str(models["gated"]), "--open", "--enforce-eager", "--dtype", "float32", "--max-model-len", "512"]
    with run_server(arguments, tmp_path / "log") as server, httpx.Client(base_url=server.address, headers=server.headers) as client:
        for flagged in (False, True):
            for prompt, (reply, score) in decided[flagged][:3]:
                body = {"model": "gated", "prompt": list(prompt), "temperature": 0, "max_tokens": NEW_TOKENS}
                answer = client.post("/v1/completions", json=body, timeout=60).json()
                assert answer["choices"][0]["text"] == tokenizer.decode(reply, skip_special_tokens=True)
                assert answer["mogu"] == {"score": pytest.approx(score, abs=1e-4)}
        prompt, (_, score) = decided[False][0]
        body = {"model": "gated", "prompt": list(prompt), "temperature": 0, "max_tokens": 4, "mogu": {"dial": 0.3}}
        logit = torch.logit(torch.tensor(score)) + 0.3
        assert client.post("/v1/completions", json=body, timeout=60).json()["mogu"]["score"] == pytest.approx(
            float(logit.sigmoid()), abs=1e-3
        )
        stream = client.post("/v1/completions", json=body | {"stream": True}, timeout=60).text
        events = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: {")]
        assert sum("mogu" in event for event in events) == 1
