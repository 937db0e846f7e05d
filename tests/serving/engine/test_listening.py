"""Answers that a stream head listens to: taken back where the library takes them back, and nothing shown that was."""

from __future__ import annotations

import json

import httpx
import pytest
import torch

from .conftest import HOLD_BACK, LISTEN, NEW_TOKENS
from .test_replies import ask, assert_replies, engine, metric


@pytest.fixture(scope="module")
def answered(library, lab_prompts):
    """By whether their answers are taken back: prompts that the gate leaves to the base model, with the library's replies."""
    prompts = [tuple(prompt) for prompt in lab_prompts]
    found = library.replies([(prompt, "listening", ()) for prompt in prompts])
    plain = library.replies([(prompt, None, ()) for prompt in prompts])
    refuse = library.models["listening"].gate_config.refuse
    rows = [(prompt, reply, base[0]) for prompt, reply, base in zip(prompts, found, plain, strict=True) if reply[1] < refuse]
    split = {taken: [row for row in rows if (row[1][0] != row[2]) == taken] for taken in (False, True)}
    assert min(map(len, split.values())) >= 10
    return split


def kept(reply: list[int], base: list[int]) -> int:
    """How many tokens of the base model's answer a reply begins with."""
    return next((place for place, pair in enumerate(zip(reply, base, strict=False)) if pair[0] != pair[1]), min(len(reply), len(base)))


@pytest.mark.parametrize("options", [{}, {"max_num_batched_tokens": 96, "max_num_seqs": 24, "num_gpu_blocks_override": 40}])
def test_answers_are_taken_back_where_the_library_takes_them_back(base, models, answered, options):
    rows = [row for taken in (False, True) for row in answered[taken]]
    llm = engine(base, block_size=32, max_model_len=512, **options)
    requests = [(prompt, "listening", ()) for prompt, _, _ in rows]
    for _ in range(2):  # the second time with what the first one left in the prefix cache
        assert_replies(ask(llm, requests, models), [reply for _, reply, _ in rows], requests)
    assert not options or metric(llm, "vllm:num_preemptions") > 0
    assert any(kept(reply, base_reply) > 1 for _, (reply, _), base_reply in answered[True])


def test_a_caller_sees_an_answer_late_and_nothing_that_is_taken_back(run_server, models, library, tokenizer, answered, tmp_path):
    log = tmp_path / "audit.jsonl"
    arguments = [str(models["listening"]), "--open", "--enforce-eager", "--dtype", "float32", "--max-model-len", "512", "--audit", str(log)]
    with run_server(arguments, tmp_path / "log") as server, httpx.Client(base_url=server.address, headers=server.headers) as client:
        for taken in (False, True):
            for prompt, (whole, _), _ in answered[taken][:4]:
                body = {"model": "listening", "prompt": list(prompt), "temperature": 0, "max_tokens": NEW_TOKENS}
                answer = client.post("/v1/completions", json=body, timeout=60).json()
                assert answer["choices"][0]["text"] == tokenizer.decode(whole, skip_special_tokens=True)
                assert 0 <= answer["mogu"]["listened"] <= 1
                stream = client.post("/v1/completions", json=body | {"stream": True, "return_token_ids": True}, timeout=60).text
                events = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: {")]
                assert [token for event in events for token in event["choices"][0]["token_ids"] or []] == streamed(library, prompt)
                assert "score" in events[0]["mogu"]
                assert all("listened" in event["mogu"] for event in events[1:])  # the first token has not been read when it is made
        metrics = client.get("/metrics", timeout=60).text
        assert 'mogu:answers_taken_back_total{model_name="listening"} 8.0' in metrics
        assert 'mogu:answer_score_count{model_name="listening"} 16.0' in metrics
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["taken_back"] for line in lines] == [False] * 8 + [True] * 8
    assert all((line["listened"] >= LISTEN) == line["taken_back"] for line in lines)
    assert {line["decision"] for line in lines} == {"base"}


class Collected:
    """A streamer that keeps what it gets."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.prompts = 0

    def put(self, value: torch.Tensor) -> None:
        if value.dim() > 1:
            self.prompts += 1
        else:
            self.tokens += value.tolist()

    def end(self) -> None:
        pass


def streamed(library, prompt: tuple[int, ...]) -> list[int]:
    """What the library hands a streaming caller."""
    collected, ids = Collected(), torch.tensor([prompt])
    library.models["listening"].generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0, streamer=collected
    )
    assert collected.prompts == 1
    assert HOLD_BACK > 0
    return collected.tokens
