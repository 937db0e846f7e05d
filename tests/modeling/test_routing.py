"""The state of one call belongs to the call: threads that share a model, nested blocks, several models in one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import TextIteratorStreamer

from mogu import MoguConfig, MoguModel
from mogu.errors import ConfigError
from mogu.inference.leaving_rows import LeavingRows
from mogu.modeling.config import BackboneConfig

PROMPTS = [torch.tensor([[5, 9, 33, 12, 60, 7, 41, 22, 18, 50]]), torch.tensor([[11, 6, 29, 44, 8, 52, 37]])]
CONFIGS = {
    "all layers": MoguConfig(rank=4, lora_alpha=12),
    "layers 1 and 2": MoguConfig(rank=4, lora_alpha=12, layers=[1, 2]),
    "v2": MoguConfig(rank=4, lora_alpha=12, layers=[1, 2], backbone=BackboneConfig(rank=2)),
    "continue": MoguConfig(rank=4, lora_alpha=12, handoff="continue"),
}


def at_once(*calls: Callable[[], Any], times: int = 8) -> list[list[Any]]:
    """What each of several calls returns when all are made in threads of their own, several times over."""
    results: list[list[Any]] = [[] for _ in calls]
    start = threading.Barrier(len(calls))

    def run(number: int) -> None:
        for _ in range(times):
            start.wait()
            results[number].append(calls[number]())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture(params=CONFIGS)
def model(request, make_pair) -> MoguModel:
    return make_pair("llama", config=CONFIGS[request.param])[0]


def test_threads_that_generate_at_once_get_what_each_gets_alone(model):
    def reply(number: int) -> tuple[list[int], list[float]]:
        output = model.generate(PROMPTS[number], do_sample=False, max_new_tokens=16)
        return output[0].tolist(), model.prompt_scores.tolist()

    alone = [reply(0), reply(1)]
    assert alone[0][1] != alone[1][1]
    assert at_once(lambda: reply(0), lambda: reply(1)) == [[alone[0]] * 8, [alone[1]] * 8]
    assert [reply(0), reply(1)] == alone


def test_generating_scoring_and_other_modes_at_once(model, tokenizer):
    model.tokenizer = tokenizer

    def generated() -> list[int]:
        return model.generate(PROMPTS[0], do_sample=False, max_new_tokens=12)[0].tolist()

    def scored() -> list[float]:
        return model.score(["hello", "what is it"]).tolist()

    def plain() -> list[float]:
        with model.routing("off"), torch.no_grad():
            return model(input_ids=PROMPTS[1]).logits[0, -1].tolist()

    def strict() -> list[float]:
        with model.routing("on", dial=2.0) as call, torch.no_grad():
            logits = model(input_ids=PROMPTS[1]).logits[0, -1].tolist()
            return logits + call.routing_weights(model.device)["unwill"].flatten().tolist()

    calls = (generated, scored, plain, strict)
    alone = [call() for call in calls]
    assert at_once(*calls, times=5) == [[result] * 5 for result in alone]


def test_streamers_in_threads(model, tokenizer):
    def streamed(number: int) -> str:
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
        options = {"do_sample": False, "max_new_tokens": 12, "streamer": streamer}
        thread = threading.Thread(target=model.generate, args=(PROMPTS[number],), kwargs=options)
        thread.start()
        text = "".join(streamer)
        thread.join()
        return text

    alone = [streamed(0), streamed(1)]
    assert alone[0] != alone[1]
    assert at_once(lambda: streamed(0), lambda: streamed(1), times=4) == [[alone[0]] * 4, [alone[1]] * 4]


def test_a_thread_that_generated_nothing_sees_the_scores_of_the_last_call(model):
    expected = model.generate(PROMPTS[0], do_sample=False, max_new_tokens=2) is not None and model.prompt_scores.tolist()
    thread = threading.Thread(target=lambda: seen.append(model.prompt_scores.tolist()))
    seen: list[list[float]] = []
    thread.start()
    thread.join()
    assert seen == [expected]


def test_a_mode_that_is_set_is_this_thread_s_alone(model):
    seen: list[str] = []
    model.routing("off")
    thread = threading.Thread(target=lambda: seen.append(model.routing_mode))
    thread.start()
    thread.join()
    assert model.routing_mode == "off"
    assert seen == ["on"]
    model.routing("on")


def test_turning_the_dial_leaves_calls_under_way_as_they_are(model):
    """Another thread turns the model's dial back and forth while one generates."""
    expected = model.generate(PROMPTS[0], do_sample=False, max_new_tokens=24, routed_tokens="all").tolist()
    model.dial = 3.0
    assert model.generate(PROMPTS[0], do_sample=False, max_new_tokens=24, routed_tokens="all").tolist() != expected
    model.dial = 0.0
    replies: list[Any] = []

    class TurnTheDial:
        def put(self, _: torch.Tensor) -> None:
            model.dial = 3.0 - model.dial

        def end(self) -> None:
            model.dial = 0.0

    replies.append(model.generate(PROMPTS[0], do_sample=False, max_new_tokens=24, routed_tokens="all", streamer=TurnTheDial()).tolist())
    assert replies == [expected]


def test_a_dial_for_one_block_is_the_model_s_dial_for_that_block(model):
    with model.routing("on", dial=0.7), torch.no_grad():
        for_the_block = model(input_ids=PROMPTS[0]).logits
        generated = model.generate(PROMPTS[0], do_sample=False, max_new_tokens=12)
    assert model.dial == 0.0
    model.dial = 0.7
    with torch.no_grad():
        assert torch.equal(for_the_block, model(input_ids=PROMPTS[0]).logits)
    assert torch.equal(generated, model.generate(PROMPTS[0], do_sample=False, max_new_tokens=12))


def test_two_models_in_one_thread(make_pair):
    first, second = (make_pair("llama", config=CONFIGS[name])[0] for name in ("all layers", "layers 1 and 2"))
    first.routing("off")
    with second.routing("unwill"):
        assert (first.routing_mode, second.routing_mode) == ("off", "unwill")
        with first.routing("on"):
            assert (first.routing_mode, second.routing_mode) == ("on", "unwill")
            second.routing("glad")  # inside a block: for the rest of it
        assert (first.routing_mode, second.routing_mode) == ("off", "glad")
    assert (first.routing_mode, second.routing_mode) == ("off", "on")
    first.routing("on")


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("handoff", ["recompute", "continue"])
@pytest.mark.parametrize("routed_tokens", [2, "all"])
def test_base_and_hardened_answer_side_by_side_in_one_batch(make_pair, name, handoff, routed_tokens):
    """Row by row what each of them says alone, also where one of them ends early and leaves the batch."""
    model, _ = make_pair("llama", config=CONFIGS[name])
    ids = torch.tensor([[5, 9, 33]]).repeat(3, 1)
    options = {"max_new_tokens": 9, "do_sample": False, "handoff": handoff, "routed_tokens": routed_tokens, "pad_token_id": 0}
    hardened = model.generate(ids[:1], **options)[0].tolist()
    with model.routing("off"):
        base = model.generate(ids[:1], max_new_tokens=9, do_sample=False, pad_token_id=0)[0].tolist()
    assert hardened != base
    end = next(token for token in base[4:] if token not in hardened[3:])
    ended = base[: base.index(end, 3) + 1]
    with model.routing("on", rows=torch.tensor([False, True, False])):
        plainly = model.generate(ids, **options).tolist()
        leaving = model.generate(ids, custom_generate=LeavingRows(), eos_token_id=end, **options).tolist()
    assert plainly == [base, hardened, base]
    assert leaving == [ended + [0] * (12 - len(ended)), hardened, ended + [0] * (12 - len(ended))]
    with model.routing("on", rows=torch.tensor([False])):
        assert model.generate(ids[:1], **options)[0].tolist() == base


def test_blocks_that_fail_leave_the_mode_as_it_was(model):
    with pytest.raises(ValueError, match="within"), model.routing("off"):
        raise ValueError("within")
    assert model.routing_mode == "on"


def test_routing_of_some_rows(make_pair):
    """Each row is what it is in a pass of its own mode, bit for bit; and the rows before come back."""
    model, _ = make_pair("llama", config=CONFIGS["all layers"])
    ids = torch.tensor([[5, 9, 33], [12, 60, 7], [41, 22, 18]])
    with torch.no_grad():
        routed = model(ids).logits
        with model.routing("off"):
            plain = model(ids).logits
        with model.routing("on", rows=torch.tensor([True, False, True])):
            some = model(ids).logits
        assert torch.equal(model(ids).logits, routed)
    assert torch.equal(some, torch.stack([routed[0], plain[1], routed[2]]))
    with model.routing("on", rows=torch.tensor([True, False, True])):
        answers = model.generate(ids, max_new_tokens=9, do_sample=False)
    expected = [model.generate(ids[row : row + 1], max_new_tokens=9, do_sample=False, routed_tokens=m) for row, m in ((0, 5), (1, 0))]
    assert torch.equal(answers[:2], torch.cat(expected))
    for mode, rows in (("off", torch.tensor([True])), ("on", torch.tensor([1])), ("on", torch.tensor([[True]]))):
        with pytest.raises(ConfigError, match="rows"):
            model.routing(mode, rows=rows)
