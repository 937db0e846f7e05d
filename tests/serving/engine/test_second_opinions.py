"""Prompts in a gate's zone of uncertainty: answered by the careful responder, whose keys and values are nobody else's."""

from __future__ import annotations

import json

import httpx
import pytest
from vllm.lora.request import LoRARequest

from .conftest import NEW_TOKENS
from .test_replies import ask, assert_replies, engine, metric

DECISIONS = ("base", "careful", "refuse")


@pytest.fixture(scope="module")
def decided(library, lab_prompts):
    """Prompts with the library's replies, by what the gate decides about them."""
    prompts = [tuple(prompt) for prompt in lab_prompts]
    replies = library.replies([(prompt, "careful", ()) for prompt in prompts])
    config = library.models["careful"].gate_config
    found = {decision: [] for decision in DECISIONS}
    for prompt, reply in zip(prompts, replies, strict=True):
        found["refuse" if reply[1] >= config.refuse else "careful" if reply[1] >= config.careful else "base"].append((prompt, reply))
    assert min(map(len, found.values())) >= 30
    return found


def test_a_prompt_in_doubt_is_answered_in_a_way_of_its_own(library, decided):
    """Otherwise the tests below could not tell who answers."""
    prompts = [prompt for prompt, _ in decided["careful"][:20]]
    careful = [reply for _, (reply, _) in decided["careful"][:20]]
    base = library.replies([(prompt, None, ()) for prompt in prompts])
    refused = library.replies([(prompt, "careful", (("dial", 9.0),)) for prompt in prompts])
    assert all(reply not in (other[0], third[0]) for reply, other, third in zip(careful, base, refused, strict=True))


@pytest.mark.parametrize("options", [{}, {"max_num_batched_tokens": 96, "max_num_seqs": 24, "num_gpu_blocks_override": 40}])
def test_replies_are_the_library_s_whoever_answers(base, models, decided, options):
    rows = [row for together in zip(*(decided[decision][:30] for decision in DECISIONS), strict=True) for row in together]
    llm = engine(base, block_size=32, max_model_len=512, **options)
    requests = [(prompt, "careful", ()) for prompt, _ in rows]
    for _ in range(2):  # the second time with what the first one left in the prefix cache
        assert_replies(ask(llm, requests, models), [reply for _, reply in rows], requests)
    assert not options or metric(llm, "vllm:num_preemptions") > 0


def test_one_prompt_has_blocks_for_each_who_may_answer_it(base, models, library, decided):
    """A dial moves the same prompts from one decision to the next; each finds its own blocks in the cache, and no others."""
    prompts = [prompt for prompt, _ in decided["careful"] if len(prompt) > 64][:6]
    requests = {dial: [(prompt, "careful", (("dial", dial),)) for prompt in prompts] for dial in (-9.0, 0.0, 9.0)}
    llm = engine(base, block_size=32, max_model_len=512)
    for _ in range(2):
        for asked in requests.values():
            assert_replies(ask(llm, asked, models), library.replies(asked), asked)
    before = metric(llm, "vllm:prefix_cache_hits")
    ask(llm, requests[0.0], models)
    # Twice all blocks but the last: first those of the base model, by which the gate hears the prompt, and then the careful ones.
    assert metric(llm, "vllm:prefix_cache_hits") - before == 2 * sum((len(prompt) - 1) // 32 * 32 for prompt in prompts)


def test_a_server_without_a_slot_for_it_refuses_the_model_and_lives_on(base, models, library, lab_prompts):
    llm = engine(base, max_loras=1, max_model_len=512)
    with pytest.raises(Exception, match=r"needs 2 LoRA slots.*--max-loras of at least 2"):
        llm.llm_engine.add_lora(LoRARequest("careful", 9, str(models["careful"])))
    requests = [(tuple(prompt), "gated", ()) for prompt in lab_prompts[:6]]
    assert_replies(ask(llm, requests, models), library.replies(requests), requests)


def test_metrics_and_the_audit_log_name_the_careful_responder(run_server, models, tokenizer, decided, tmp_path):
    log = tmp_path / "audit.jsonl"
    arguments = [str(models["careful"]), "--open", "--enforce-eager", "--dtype", "float32", "--max-model-len", "512", "--audit", str(log)]
    with run_server(arguments, tmp_path / "log") as server, httpx.Client(base_url=server.address, headers=server.headers) as client:
        for decision in DECISIONS:
            for prompt, (reply, score) in decided[decision][:3]:
                body = {"model": "careful", "prompt": list(prompt), "temperature": 0, "max_tokens": NEW_TOKENS}
                answer = client.post("/v1/completions", json=body, timeout=60).json()
                assert answer["choices"][0]["text"] == tokenizer.decode(reply, skip_special_tokens=True)
                assert answer["mogu"]["score"] == pytest.approx(score, abs=1e-4)
        metrics = client.get("/metrics", timeout=60).text
        assert client.get("/v1/models", timeout=60).json()["data"][-1]["id"] == "careful"
    for decision in DECISIONS:
        assert f'mogu:decisions_total{{decision="{decision}",model_name="careful"}} 3.0' in metrics
    assert [json.loads(line)["decision"] for line in log.read_text().splitlines()] == [each for each in DECISIONS for _ in range(3)]
